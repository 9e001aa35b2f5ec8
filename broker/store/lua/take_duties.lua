#!lua flags=allow-oom
-- A worker asks which of its queues it listens to: one worker of a queue does, the others are parked. The duty is the
-- listener's as long as it goes on asking.
--
-- KEYS[1]   the first queue's duty
-- ARGV      1 worker   2 ms for which a duty is held   3 ms in which one worker of a queue asks unrung   then queues
-- returns   for each queue {1 when this worker listens, 1 when it is to ask unrung now, known workers of the queue}
local worker = ARGV[1]

local function listens(queue)
  local listener = redis.call('GET', DUTY .. queue)
  if listener and listener ~= worker then
    return 0
  end
  redis.call('SET', DUTY .. queue, worker, 'PX', ARGV[2])
  return 1
end

local answers = {}
for i = 4, #ARGV do
  local queue = ARGV[i]
  local has_turn = redis.call('SET', TURN .. queue, worker, 'NX', 'PX', ARGV[3])
  answers[#answers + 1] = { listens(queue), has_turn and 1 or 0, redis.call('ZCARD', WORKERS .. queue) }
end
return answers
