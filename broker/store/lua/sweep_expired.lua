#!lua flags=allow-oom
-- Open tasks whose time is over expire.
--
-- KEYS[1]   the open tasks by expiry
-- ARGV      1 most tasks to handle
-- returns   how many were handled
--
-- @include clock record read_ahead for_each settle changes
local now = now_ms()
local uuids = redis.call('ZRANGEBYSCORE', EXPIRING, '-inf', now, 'LIMIT', 0, ARGV[1])

local function drop(uuid)
  unindex(EXPIRING, uuid)
end

local function expire(uuid)
  local record = read_record(uuid)
  if record and is_open(record) then
    expire_if_over(uuid, record, now)
  else
    drop(uuid)
  end
end

read_ahead(uuids)
for_each(uuids, expire, drop)
write_changes()
return #uuids
