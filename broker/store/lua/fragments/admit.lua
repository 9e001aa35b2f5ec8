-- @include queue enqueue changes
-- admit(queue, priority, most, drops_oldest, now): whether a queue takes one more pending task, claimable or delayed,
-- which is counted as admitted. A full one takes it only in place of its oldest claimable task of the lowest priority,
-- and of none above the new task's own.
local MOST_DROPS = 10
-- Pending tasks by queue, as far as this run has asked; a run of several tasks asks once a queue.
local pending_of = {}

local function drop_some(queue, priority, excess, now)
  -- @include settle dropped

  local function drop_oldest()
    local last = redis.call('ZREVRANGE', PENDING .. queue, 0, 0, 'WITHSCORES')
    if #last == 0 then
      return false
    end
    local lowest = -math.floor(last[2] / PRIORITY_STEP)
    if priority < lowest then
      return false
    end
    local uuid = redis.call('ZRANGEBYSCORE', PENDING .. queue, integer(-lowest * PRIORITY_STEP), '+inf', 'LIMIT', 0, 1)[1]
    local record = read_record(uuid)
    if not record or record.state ~= 'pending' then
      unindex(PENDING .. queue, uuid)
    elseif not expire_if_over(uuid, record, now) then
      settle(uuid, record, now, 'failed', '', DROPPED)
    end
    write_changes()
    return true
  end

  write_changes()
  -- A lowered limit is reached over several creates: none drops more than a few.
  local dropped = 0
  while dropped < excess and dropped < MOST_DROPS and drop_oldest() do
    dropped = dropped + 1
  end
  return dropped
end

local function count_pending(queue, now)
  local known = redis.call('HMGET', QUEUE .. queue, 'delayed', 'seen')
  note_queue(queue, known[2], now)
  return redis.call('ZCARD', PENDING .. queue) + (known[1] or 0)
end

local function admit(queue, priority, most, drops_oldest, now)
  local pending = pending_of[queue] or count_pending(queue, now)
  pending_of[queue] = pending
  if pending >= most then
    local dropped = drops_oldest and drop_some(queue, priority, pending + 1 - most, now) or 0
    if dropped == 0 then
      return false
    end
    pending = pending - dropped
  end
  pending_of[queue] = pending + 1
  return true
end
