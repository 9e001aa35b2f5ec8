#!lua flags=allow-oom
-- Records of ended tasks go when their retention is over, and the oldest also when there are too many or they take too
-- many bytes.
--
-- KEYS[1]   the ended tasks by the end of their retention
-- ARGV      1 most tasks to keep   2 most bytes to keep   3 most tasks to handle
-- returns   how many were handled
--
-- @include clock record for_each forget changes
local now, most_tasks, most_bytes, batch = now_ms(), tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

-- An entry without an ended task, whatever went wrong: an open task is somebody's work.
local function drop(uuid)
  unindex(RETAINED, uuid)
  unindex(ENDED, uuid)
end

local function forget_if_ended(uuid)
  local record = read_record(uuid)
  if record and not is_open(record) then
    forget(uuid, record)
    return record.kept
  end
  drop(uuid)
  return 0
end

local function forget_oldest(most)
  local tasks = redis.call('ZCARD', ENDED)
  local bytes = tonumber(redis.call('GET', RETAINED_BYTES) or 0)
  local oldest = (tasks > most_tasks or bytes > most_bytes) and redis.call('ZRANGE', ENDED, 0, most - 1) or {}
  local handled = 0
  for_each(oldest, function(uuid)
    if tasks > most_tasks or bytes > most_bytes then
      handled, tasks = handled + 1, tasks - 1
      bytes = bytes - forget_if_ended(uuid)
    end
  end, drop)
  write_changes()
  if tasks == 0 and bytes > most_bytes then
    -- No ended task is left, so none takes any bytes.
    redis.call('DEL', RETAINED_BYTES)
  end
  return handled
end

local due = redis.call('ZRANGEBYSCORE', RETAINED, '-inf', now, 'LIMIT', 0, batch)
for_each(due, forget_if_ended, drop)
write_changes()
local handled = #due
if handled < batch then
  handled = handled + forget_oldest(batch - handled)
end
return handled
