-- @include integer
-- note_queue(queue, seen, now): keeps a queue known; `seen` is its field of that name, ms or false. A write per task
-- would tell nothing more.
local NOTE_EVERY_MS = 600000

local function note_queue(queue, seen, now)
  if now - (seen or 0) >= NOTE_EVERY_MS then
    redis.call('HSET', QUEUE .. queue, 'seen', integer(now))
    redis.call('ZADD', QUEUES, integer(now), queue)
  end
end
