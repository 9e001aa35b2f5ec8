#!lua flags=no-writes
-- Of many tasks, those that need no file: without a record, or dropped by a full queue.
--
-- KEYS[1]   the tasks' records
-- ARGV      uuids
-- returns   {the uuids without a record, those that were dropped}
--
-- @include record read_ahead values dropped
local without_record, dropped = {}, {}
read_ahead(ARGV)
for _, uuid in ipairs(ARGV) do
  local record = read_record(uuid)
  if not record then
    without_record[#without_record + 1] = uuid
  elseif record.state == 'failed' and load_value(uuid, record, 'error', record.error) == DROPPED then
    dropped[#dropped + 1] = uuid
  end
end
return { without_record, dropped }
