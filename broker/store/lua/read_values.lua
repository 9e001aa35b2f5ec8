#!lua flags=no-writes
-- What several namespaces hold, as far as that is news to the caller.
--
-- KEYS[1]   the namespaces
-- ARGV      1 bytes of values after which no more are read   2, 3 … namespace and known version ("" for none) in turns
-- returns   for each: false when it still has the known version, {version, changed_at, value} or {'0'} when it has
--           another, 0 when it was not looked at
local NOTHING = '0'
local most_bytes, bytes = tonumber(ARGV[1]), 0

local function read(namespace, known)
  if bytes >= most_bytes then
    return 0
  end
  local key = PUBLISHED .. namespace
  local version = redis.call('HGET', key, 'version') or NOTHING
  if version == known then
    return false
  end
  if version == NOTHING then
    return { NOTHING }
  end
  local found = redis.call('HMGET', key, 'changed_at', 'value')
  bytes = bytes + #found[2]
  return { version, found[1], found[2] }
end

local answer = {}
for i = 2, #ARGV, 2 do
  answer[i / 2] = read(ARGV[i], ARGV[i + 1] or '')
end
return answer
