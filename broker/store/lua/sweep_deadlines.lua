#!lua flags=allow-oom
-- Open tasks past their time expire; records of ended tasks go when their retention is over.
--
-- KEYS[1]   the deadlines
-- ARGV      1 most tasks to handle
-- returns   how many were handled
--
-- @include clock record settle forget
local now = now_ms()
local uuids = redis.call('ZRANGEBYSCORE', DEADLINES, '-inf', now, 'LIMIT', 0, ARGV[1])
for _, uuid in ipairs(uuids) do
  local record = read_record(uuid)
  if not record then
    redis.call('ZREM', DEADLINES, uuid)
  elseif is_open(record) then
    expire_if_over(uuid, record, now)
  else
    forget(uuid, record)
  end
end
return #uuids
