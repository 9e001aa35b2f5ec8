#!lua flags=allow-oom
-- Delayed tasks whose time has come become claimable.
--
-- KEYS[1]   the delayed tasks
-- ARGV      1 most tasks to handle
-- returns   how many were handled
--
-- @include clock record read_ahead for_each enqueue changes
local uuids = redis.call('ZRANGEBYSCORE', DELAYED, '-inf', now_ms(), 'LIMIT', 0, ARGV[1])

local function release(uuid)
  unindex(DELAYED, uuid)
  local record = read_record(uuid)
  if record and record.state == 'pending' then
    record.due = nil
    write_record(uuid, record)
    count(record.queue, 'delayed', -1)
    make_claimable(uuid, record)
  end
end

read_ahead(uuids)
for_each(uuids, release)
write_changes()
return #uuids
