#!lua flags=no-writes
-- Whether this process's user may listen to patterns: a PSUBSCRIBE that is refused costs the connection.
--
-- KEYS[1]   any key of the broker's, so that the script has a place
-- ARGV      patterns
-- returns   a list of 1 or 0, in order
--
local answers = {}
for i, pattern in ipairs(ARGV) do
  answers[i] = redis.acl_check_cmd('PSUBSCRIBE', pattern) and 1 or 0
end
return answers
