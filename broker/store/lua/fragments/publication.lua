-- @include integer
-- What all namespaces share is a hash: `changes` counts them, and gives each its number; `epoch` names the store that
-- counts, since numbers of another one say nothing here; `forgotten` is the newest deletion that is not kept any more.
--
-- next_change(random): the number of one more change. The first one in an empty store makes the epoch.
local function next_change(random)
  local number = redis.call('HINCRBY', PUBLICATIONS, 'changes', 1)
  if number == 1 then
    redis.call('HSET', PUBLICATIONS, 'epoch', random)
  end
  return integer(number)
end
