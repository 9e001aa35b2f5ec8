#!lua flags=allow-oom
-- Renews a lease, and stores the task's progress where one is given: as its latest, and as the next of its events.
--
-- KEYS[1]   the tasks' records
-- ARGV      1 uuid   2 lease   3 lease ms   4 progress (JSON text, "" for none), with which come:
--           5 eight bytes that name this report   6 most events to keep   7 most bytes of them
-- returns   {EXTENDED, lease end ms}, {FINAL, state} when somebody ended the task, {LEASE_LOST} or {NOT_FOUND}
--
-- @include clock integer record values events
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
  record.progress = store_value(uuid, record, 'progress', ARGV[4])
  append_event(uuid, record, ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]))
  write_record(uuid, record)
  write_records()
end
return { EXTENDED, lease_end }
