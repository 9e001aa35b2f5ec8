#!lua flags=no-writes
-- Of many tasks, those of which there is more to tell than somebody knows: another event, or the end.
--
-- KEYS[1]   the tasks' records
-- ARGV      a task each: uuid, number of the newest event known
-- returns   the uuids among them
--
-- @include record read_ahead every events
local found = {}
read_ahead(every(ARGV, 1, 2))
for i = 1, #ARGV, 2 do
  local record = read_record(ARGV[i])
  if not record or not is_open(record) or events_of(record) ~= tonumber(ARGV[i + 1]) then
    found[#found + 1] = ARGV[i]
  end
end
return found
