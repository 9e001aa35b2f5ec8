#!lua flags=allow-oom
-- Records of ended tasks go when their retention is over, and the oldest also when there are too many or they take too
-- many bytes. Oldest is whose retention ends first.
--
-- KEYS[1]   the ended tasks by the end of their retention
-- ARGV      1 most tasks to keep   2 most bytes to keep   3 most tasks to handle
-- returns   how many went
--
-- @include clock record forget
local now, most_tasks, most_bytes = now_ms(), tonumber(ARGV[1]), tonumber(ARGV[2])

local function must_go(retained_until)
  return tonumber(retained_until) <= now or redis.call('ZCARD', RETAINED) > most_tasks
    or tonumber(redis.call('GET', RETAINED_BYTES) or 0) > most_bytes
end

local gone = 0
while gone < tonumber(ARGV[3]) do
  local oldest = redis.call('ZRANGE', RETAINED, 0, 0, 'WITHSCORES')
  if #oldest == 0 then
    -- No ended task is left, so none takes any bytes.
    redis.call('DEL', RETAINED_BYTES)
    break
  end
  if not must_go(oldest[2]) then
    break
  end
  local record = read_record(oldest[1])
  if record then
    forget(oldest[1], record)
  else
    redis.call('ZREM', RETAINED, oldest[1])
  end
  gone = gone + 1
end
return gone
