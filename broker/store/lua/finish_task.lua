#!lua flags=allow-oom
-- Ends a task, by its lease holder or by a third party; the first writer wins, for ever.
--
-- KEYS[1]   the record's key
-- ARGV      1 uuid   2 terminal state   3 result (JSON text, "" for none)   4 error (the same)
--           5 lease ("" for a third party)   6 "1" when a change should return the task JSON
-- returns   {CHANGED, state, task JSON or false}, {FINAL, state, task JSON} when it has ended already (the caller
--           compares outcomes: Lua would change numbers), {LEASE_LOST} or {NOT_FOUND}
--
-- @include clock record settle
local uuid, result, error_text, lease = ARGV[1], ARGV[3] or '', ARGV[4] or '', ARGV[5] or ''
local record = read_record(uuid)
if not record then
  return { NOT_FOUND }
end
local now = now_ms()
if not is_open(record) or expire_if_over(uuid, record, now) then
  return { FINAL, record.state, task_json(uuid, record) }
end
if lease ~= '' and record.lease ~= lease then
  return { LEASE_LOST }
end
settle(uuid, record, now, ARGV[2], result ~= '' and result or nil, error_text ~= '' and error_text or nil, lease ~= '')
return { CHANGED, record.state, ARGV[6] == '1' and task_json(uuid, record) }
