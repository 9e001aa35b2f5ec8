#!lua flags=no-writes
-- Of many tasks, those that need no file: without a record, or dropped by a full queue.
--
-- KEYS[1]   the first record's key
-- ARGV      uuids
-- returns   {the uuids without a record, those that were dropped}
--
-- @include dropped
local without_record, dropped = {}, {}
for _, uuid in ipairs(ARGV) do
  local state = redis.call('HGET', TASK .. uuid, 'state')
  if not state then
    without_record[#without_record + 1] = uuid
  elseif state == 'failed' and redis.call('HGET', VALUES .. uuid, 'error') == DROPPED then
    dropped[#dropped + 1] = uuid
  end
end
return { without_record, dropped }
