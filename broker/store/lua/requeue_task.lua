#!lua flags=allow-oom
-- The lease holder returns its task: a failed attempt, retried while attempts are left, or given back uncounted.
--
-- KEYS[1]   the tasks' records
-- ARGV      1 uuid   2 lease   3 "1" when the attempt counts as failed   4 delay ms   5 error (JSON text, "" for none)
--           6 "1" when the reply should carry the task JSON   7 the longest delay in ms, where the delay doubles with
--           each attempt after the first, "" where it is as given
-- returns   {REQUEUED, state, task JSON or false}, {CHANGED, the same} when attempts are exhausted and the task has
--           failed, {FINAL, state, task JSON} when somebody else ended it, {LEASE_LOST} or {NOT_FOUND}
--
-- @include clock record settle requeue changes
local MOST_DOUBLINGS = 60
local uuid, failed, delay, error_text = ARGV[1], ARGV[3] == '1', tonumber(ARGV[4]), ARGV[5] or ''
local record = read_record(uuid)
if not record then
  return { NOT_FOUND }
end
local now = now_ms()
if not is_open(record) or expire_if_over(uuid, record, now) then
  write_changes()
  return { FINAL, record.state, task_json(uuid, record) }
end
if record.lease ~= ARGV[2] then
  return { LEASE_LOST }
end
if ARGV[7] then
  delay = math.min(delay * 2 ^ math.min(record.attempt - 1, MOST_DOUBLINGS), tonumber(ARGV[7]))
end
local code
if failed and record.attempt >= record.max_attempts then
  settle(uuid, record, now, 'failed', '', error_text, true)
  code = CHANGED
else
  if error_text ~= '' then record.last_error = store_value(uuid, record, 'last_error', error_text) end
  requeue(uuid, record, record.attempt - (failed and 0 or 1), delay > 0 and now + delay or nil)
  code = REQUEUED
end
write_changes()
return { code, record.state, ARGV[6] == '1' and task_json(uuid, record) }
