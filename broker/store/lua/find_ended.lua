#!lua flags=no-writes
-- Of many tasks, those that are no longer open: ended, or gone.
--
-- KEYS[1]   the first record's key
-- ARGV      uuids
-- returns   the uuids among them whose record is terminal or missing
local ended = {}
for _, uuid in ipairs(ARGV) do
  local state = redis.call('HGET', TASK .. uuid, 'state')
  if state ~= 'pending' and state ~= 'running' then
    ended[#ended + 1] = uuid
  end
end
return ended
