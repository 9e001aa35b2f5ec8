#!lua flags=allow-oom
-- Queues are forgotten when they have been without open tasks, workers and held calls for a while, unless they have
-- limits.
--
-- KEYS[1]   the known queues, by when they were noted last
-- ARGV      1 ms after which a queue is looked at   2 most queues to handle
-- returns   how many were handled
--
-- @include clock integer
local now = now_ms()

local function is_in_use(queue)
  if redis.call('EXISTS', PENDING .. queue, WORKERS .. queue, WAITERS .. queue) > 0
    or redis.call('HEXISTS', LIMITS, queue) == 1 then
    return true
  end
  for _, number in ipairs(redis.call('HMGET', QUEUE .. queue, 'running', 'deferred', 'delayed')) do
    if number and number ~= '0' then
      return true
    end
  end
  return false
end

local quiet = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', integer(now - ARGV[1]), 'LIMIT', 0, ARGV[2])
for _, queue in ipairs(quiet) do
  if is_in_use(queue) then
    redis.call('ZADD', KEYS[1], integer(now), queue)
  else
    redis.call('ZREM', KEYS[1], queue)
    redis.call('DEL', QUEUE .. queue)
  end
end
return #quiet
