#!lua flags=no-writes
-- Of many tasks, those that are no longer open: ended, or gone.
--
-- KEYS[1]   the tasks' records
-- ARGV      uuids
-- returns   the uuids among them whose record is terminal or missing
-- @include record read_ahead for_each
local ended = {}
read_ahead(ARGV)
for_each(ARGV, function(uuid)
  local record = read_record(uuid)
  if not record or not is_open(record) then
    ended[#ended + 1] = uuid
  end
end)
return ended
