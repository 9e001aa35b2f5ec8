#!lua flags=allow-oom
-- Ended tasks beyond the limits of count or bytes go, oldest first.
--
-- KEYS[1]   the ended tasks
-- ARGV      1 most tasks to keep   2 most bytes to keep   3 most tasks to handle
-- returns   how many went
--
-- @include record forget
local most_tasks, most_bytes, batch = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local function is_over()
  return redis.call('ZCARD', FINISHED) > most_tasks or tonumber(redis.call('GET', FINISHED_BYTES) or 0) > most_bytes
end

local gone = 0
while gone < batch and is_over() do
  local oldest = redis.call('ZRANGE', FINISHED, 0, 0)[1]
  local record = oldest and read_record(oldest)
  if record then
    forget(oldest, record)
  elseif oldest then
    redis.call('ZREM', FINISHED, oldest)
  else
    -- No ended task is left, so none takes any bytes.
    redis.call('DEL', FINISHED_BYTES)
  end
  gone = gone + 1
end
return gone
