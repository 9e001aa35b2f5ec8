#!lua flags=allow-oom
-- Sets a queue's limits, or takes them away. What runs goes on; what a higher limit lets run is rung for.
--
-- KEYS[1]   the limits of all queues
-- ARGV      1 queue   2 the limits as JSON ("" for none)   3 most running ("" for no limit)   4 most started in a window
--           ("" for no limit)   5 window ms   6 most queues that have limits
-- returns   {CHANGED}, or {FULL} when so many other queues have limits
--
-- @include clock queue ring_first
local queue = ARGV[1]
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], queue)
elseif redis.call('HEXISTS', KEYS[1], queue) == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[6]) then
  return { FULL }
else
  redis.call('HSET', KEYS[1], queue, ARGV[3] .. ':' .. ARGV[4] .. ':' .. ARGV[5] .. ':' .. ARGV[2])
  note_queue(queue, redis.call('HGET', QUEUE .. queue, 'seen'), now_ms())
end
ring_first(queue)
return { CHANGED }
