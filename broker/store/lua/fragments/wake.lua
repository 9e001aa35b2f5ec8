-- wake_one(queue): wakes a parked worker of the queue. A token that nobody takes at once stays for whoever parks next,
-- and not for long: one is enough, since who is woken wakes the next.
local TOKEN_MS = 2000

local function wake_one(queue)
  if redis.call('LLEN', WAKE .. queue) == 0 then
    redis.call('LPUSH', WAKE .. queue, '1')
    redis.call('PEXPIRE', WAKE .. queue, TOKEN_MS)
  end
end
