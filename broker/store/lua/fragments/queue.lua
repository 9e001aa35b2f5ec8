-- @include integer
-- What is known of a queue beside its tasks: a hash of its numbers, and its place among the known queues.
--
-- count(queue, what, by): keeps how many tasks of a queue are `running` (with a lease), `deferred` (without one) or
-- `delayed`. Each number changes in the script that changes the task. Claimable ones are counted by their index.
local function count(queue, what, by)
  redis.call('HINCRBY', QUEUE .. queue, what, by)
end

-- note_queue(queue, seen, now): keeps a queue known; `seen` is its field of that name, ms or false. A write per task
-- would tell nothing more.
local NOTE_EVERY_MS = 600000

local function note_queue(queue, seen, now)
  if now - (seen or 0) >= NOTE_EVERY_MS then
    redis.call('HSET', QUEUE .. queue, 'seen', integer(now))
    redis.call('ZADD', QUEUES, integer(now), queue)
  end
end
