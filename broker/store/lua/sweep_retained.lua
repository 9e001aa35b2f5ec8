#!lua flags=allow-oom
-- Records of ended tasks go when their retention is over, and the oldest also when there are too many or they take too
-- many bytes.
--
-- KEYS[1]   the ended tasks by the end of their retention
-- ARGV      1 most tasks to keep   2 most bytes to keep   3 most tasks to handle
-- returns   how many were handled
--
-- @include clock record forget
local now, most_tasks, most_bytes, batch = now_ms(), tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local function forget_if_ended(uuid)
  local record = read_record(uuid)
  if record and not is_open(record) then
    forget(uuid, record)
  else
    -- An entry without an ended task, whatever went wrong: an open task is somebody's work.
    redis.call('ZREM', RETAINED, uuid)
    redis.call('ZREM', ENDED, uuid)
  end
end

local function are_too_many()
  return redis.call('ZCARD', ENDED) > most_tasks or tonumber(redis.call('GET', RETAINED_BYTES) or 0) > most_bytes
end

local due = redis.call('ZRANGEBYSCORE', RETAINED, '-inf', now, 'LIMIT', 0, batch)
for _, uuid in ipairs(due) do
  forget_if_ended(uuid)
end
local handled = #due
while handled < batch and are_too_many() do
  local oldest = redis.call('ZRANGE', ENDED, 0, 0)[1]
  if not oldest then
    -- No ended task is left, so none takes any bytes.
    redis.call('DEL', RETAINED_BYTES)
    break
  end
  forget_if_ended(oldest)
  handled = handled + 1
end
return handled
