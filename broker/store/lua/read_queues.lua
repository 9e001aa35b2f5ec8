#!lua flags=no-writes
-- The numbers of several queues, as one consistent picture.
--
-- KEYS[1]   the known queues
-- ARGV      queues
-- returns   a list of {queue, claimable, running, deferred, delayed, age of the oldest claimable task in ms or false,
--           workers, waiters, limits as JSON or false}
--
-- @include clock integer record enqueue presence
local now = now_ms()

local function oldest(queue)
  local found, age
  for priority = 0, 9 do
    local first = redis.call('ZRANGEBYSCORE', PENDING .. queue, integer(-priority * PRIORITY_STEP),
      '(' .. integer((1 - priority) * PRIORITY_STEP), 'WITHSCORES', 'LIMIT', 0, 1)
    local seq = first[2] and first[2] + priority * PRIORITY_STEP
    if seq and (not age or seq < age) then
      found, age = first[1], seq
    end
  end
  return found
end

local function age_of_oldest(queue)
  local uuid = oldest(queue)
  local record = uuid and read_record(uuid)
  return record and math.max(0, now - record.created)
end

local function numbers(queue)
  local claimable = redis.call('ZCARD', PENDING .. queue)
  local counts = redis.call('HMGET', QUEUE .. queue, 'running', 'deferred', 'delayed')
  local limits = redis.call('HGET', LIMITS, queue)
  local workers, waiters = sum_present(WORKERS .. queue, now), sum_present(WAITERS .. queue, now)
  return { queue, claimable, tonumber(counts[1] or 0), tonumber(counts[2] or 0), tonumber(counts[3] or 0),
    claimable > 0 and age_of_oldest(queue) or false, workers, waiters, limits and string.match(limits, '{.*') }
end

local answer = {}
for i, queue in ipairs(ARGV) do
  answer[i] = numbers(queue)
end
return answer
