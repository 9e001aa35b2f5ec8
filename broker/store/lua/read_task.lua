#!lua flags=no-writes
-- Reads a task as one consistent picture of record and values.
--
-- KEYS[1]   the tasks' records
-- ARGV      1 uuid
-- returns   {FOUND, queue, seal, state, task JSON} or {NOT_FOUND}
--
-- @include record task_json
local uuid = ARGV[1]
local record = read_record(uuid)
if not record then
  return { NOT_FOUND }
end
return { FOUND, record.queue, record.seal, record.state, task_json(uuid, record) }
