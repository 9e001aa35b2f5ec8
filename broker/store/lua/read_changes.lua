#!lua flags=no-writes
-- Which namespaces have changed since somebody looked last.
--
-- KEYS[1]   the namespaces, by the number of their last change
-- ARGV      1 most namespaces to return, of published and of deleted ones   2 epoch   3 number of the last change that
--           the caller knows ("" for none)
-- returns   {epoch, number of the last change that the caller then knows, 1 when more follow else 0, then namespace
--           and version of each}, or {epoch, number} when what the caller knows is of another epoch, or too old
--
-- @include integer
local NOTHING = '0'
local most = tonumber(ARGV[1])
local state = redis.call('HMGET', PUBLICATIONS, 'epoch', 'changes', 'forgotten')
local epoch, newest, forgotten = state[1] or '', tonumber(state[2] or 0), tonumber(state[3] or 0)
local known = tonumber(ARGV[3] or '')

if not known or ARGV[2] ~= epoch or known > newest or known < forgotten then
  return { epoch, newest }
end

local answer, upto, more = { epoch, 0, 0 }, newest, 0
for _, index in ipairs({ NAMESPACES, DELETED_NAMESPACES }) do
  local found = redis.call('ZRANGEBYSCORE', index, '(' .. integer(known), '+inf', 'WITHSCORES', 'LIMIT', 0, most)
  for i = 1, #found, 2 do
    answer[#answer + 1] = found[i]
    answer[#answer + 1] = redis.call('HGET', PUBLISHED .. found[i], 'version') or NOTHING
  end
  if #found == 2 * most then
    upto, more = math.min(upto, tonumber(found[#found])), 1
  end
end
answer[2], answer[3] = upto, more
return answer
