#!lua flags=allow-oom
-- Renews a lease, and stores the task's progress where one is given.
--
-- KEYS[1]   the record's key
-- ARGV      1 uuid   2 lease   3 lease ms   4 progress (JSON text, "" for none)
-- returns   {EXTENDED, lease end ms}, {FINAL, state} when somebody ended the task, {LEASE_LOST} or {NOT_FOUND}
--
-- @include clock integer record values
local uuid = ARGV[1]
local record = read_record(uuid)
if not record then
  return { NOT_FOUND }
end
if not is_open(record) then
  return { FINAL, record.state }
end
if record.lease ~= ARGV[2] then
  return { LEASE_LOST }
end
local lease_end = integer(now_ms() + ARGV[3])
redis.call('ZADD', LEASES, lease_end, uuid)
if (ARGV[4] or '') ~= '' then
  set_value(uuid, record, 'progress', ARGV[4])
  write_record(uuid, record)
end
return { EXTENDED, lease_end }
