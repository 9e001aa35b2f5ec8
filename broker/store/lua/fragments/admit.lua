-- @include queue enqueue settle dropped
-- admit(queue, priority, most, drops_oldest, now): whether a queue takes one more pending task, claimable or delayed.
-- A full one takes it only in place of its oldest claimable task of the lowest priority, and of none above the new
-- task's own.
local MOST_DROPS = 10

local function drop_oldest(queue, priority, now)
  local last = redis.call('ZREVRANGE', PENDING .. queue, 0, 0, 'WITHSCORES')
  if #last == 0 then
    return false
  end
  local band = math.floor(last[2] / PRIORITY_STEP)
  if tonumber(priority) < 9 - band then
    return false
  end
  local uuid = redis.call('ZRANGEBYSCORE', PENDING .. queue, integer(band * PRIORITY_STEP), '+inf', 'LIMIT', 0, 1)[1]
  local record = read_record(uuid)
  if not record or record.state ~= 'pending' then
    redis.call('ZREM', PENDING .. queue, uuid)
  elseif not expire_if_over(uuid, record, now) then
    settle(uuid, record, now, 'failed', nil, DROPPED)
  end
  return true
end

local function admit(queue, priority, most, drops_oldest, now)
  local known = redis.call('HMGET', QUEUE .. queue, 'delayed', 'seen')
  note_queue(queue, known[2], now)
  local excess = redis.call('ZCARD', PENDING .. queue) + (known[1] or 0) + 1 - most
  if excess <= 0 then
    return true
  end
  -- A lowered limit is reached over several creates: none drops more than a few.
  local dropped = 0
  while drops_oldest and dropped < excess and dropped < MOST_DROPS and drop_oldest(queue, priority, now) do
    dropped = dropped + 1
  end
  return dropped > 0
end
