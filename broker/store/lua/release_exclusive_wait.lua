#!lua flags=allow-oom
-- Takes away the markers of an exclusive caller who waits no more.
--
-- KEYS[1]   the uuid's marker
-- ARGV      1 who asks   2 idempotency digest ("" for none)
-- returns   how many were this caller's
local released = 0
for _, marker in ipairs({ KEYS[1], ARGV[2] and EXCLUSIVE_KEY .. ARGV[2] }) do
  if redis.call('GET', marker) == ARGV[1] then
    released = released + redis.call('DEL', marker)
  end
end
return released
