#!lua flags=allow-oom
-- The lease holder leaves its task to a third party: it stays `running`, without a lease, until somebody ends it.
--
-- KEYS[1]   the tasks' records
-- ARGV      1 uuid   2 lease   3 "1" when the reply should carry the task JSON   4 ms after which it expires, if its own
--           time is not over before, "" where only that counts
-- returns   {DEFERRED, state, task JSON or false}, {FINAL, state, task JSON}, {LEASE_LOST} or {NOT_FOUND}
--
-- @include clock integer record settle changes
local uuid, now = ARGV[1], now_ms()
local record = read_record(uuid)
if not record then
  return { NOT_FOUND }
end
if not is_open(record) or expire_if_over(uuid, record, now) then
  write_changes()
  return { FINAL, record.state, task_json(uuid, record) }
end
if record.lease ~= ARGV[2] then
  return { LEASE_LOST }
end
leave_lease(uuid, record)
record.lease, record.worker = '', ''
if ARGV[4] and now + ARGV[4] < record.expires then
  record.expires = now + ARGV[4]
  index(EXPIRING, uuid, integer(record.expires))
end
write_record(uuid, record)
count(record.queue, 'deferred', 1)
write_changes()
return { DEFERRED, record.state, ARGV[3] == '1' and task_json(uuid, record) }
