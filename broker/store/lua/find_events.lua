#!lua flags=no-writes
-- Of many tasks, those of which there is more to tell than somebody knows: another event, or the end.
--
-- KEYS[1]   the first record's key
-- ARGV      a task each: uuid, number of the newest event known
-- returns   the uuids among them
local found = {}
for i = 1, #ARGV, 2 do
  local now = redis.call('HMGET', TASK .. ARGV[i], 'state', 'events')
  if (now[1] ~= 'pending' and now[1] ~= 'running') or (now[2] or '0') ~= ARGV[i + 1] then
    found[#found + 1] = ARGV[i]
  end
end
return found
