#!lua flags=allow-oom
-- Ends a task, by its lease holder or by a third party; the first writer wins, for ever.
--
-- KEYS[1]   the record's key
-- ARGV      1 uuid   2 terminal state   3 result (JSON text, "" for none)   4 error (the same)
--           5 outcome fingerprint   6 lease ("" for a third party)   7 "1" when a change should return the task JSON
-- returns   {CHANGED, state, task JSON or false}, {UNCHANGED, state, task JSON} for the same outcome again,
--           {FINAL, state, task JSON} for another one, {LEASE_LOST} or {NOT_FOUND}
--
-- @include clock record settle
local uuid, fingerprint, lease = ARGV[1], ARGV[5], ARGV[6]
local record = read_record(uuid)
if not record then
  return { NOT_FOUND }
end
local now = now_ms()
if not is_open(record) or expire_if_over(uuid, record, now) then
  local code = record.outcome == fingerprint and UNCHANGED or FINAL
  return { code, record.state, task_json(uuid, record) }
end
if lease ~= '' and record.lease ~= lease then
  return { LEASE_LOST }
end
local result, error_text = ARGV[3], ARGV[4]
settle(uuid, record, now, ARGV[2], result ~= '' and result or nil, error_text ~= '' and error_text or nil, fingerprint,
  lease ~= '')
return { CHANGED, record.state, ARGV[7] == '1' and task_json(uuid, record) }
