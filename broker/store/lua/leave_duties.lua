#!lua flags=allow-oom
-- A worker that ends listens no more: each queue that it listened to wakes another worker, which takes over.
--
-- KEYS[1]   the first queue's duty
-- ARGV      1 worker   then queues
-- returns   how many duties it had
--
-- @include wake
local left = 0
for i = 2, #ARGV do
  local queue = ARGV[i]
  if redis.call('GET', DUTY .. queue) == ARGV[1] then
    redis.call('DEL', DUTY .. queue)
    wake_one(queue)
    left = left + 1
  end
end
return left
