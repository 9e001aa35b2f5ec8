-- @include integer changes record
-- new_record(…): a task that is pending, with its common parts. max_attempts is 0 where its claim is to say it.
local function new_record(queue, priority, seq, now, ttl, retention, seal, fingerprint, size, max_attempts)
  return { RECORD_FORMAT, queue, 'pending', 0, priority, seq, now, now + ttl, retention, seal, fingerprint, size,
    max_attempts, '', 0, '', '', 0, 0, '' }
end

-- register(uuid, record): stores a new task and puts it into the indexes of all and of open tasks.
local function register(uuid, record)
  write_record(uuid, record)
  index(EXPIRING, uuid, integer(record.expires))
  index(CREATED_INDEX, uuid, integer(record.seq))
end

-- next_sequence(most): a new task's age, where the run makes so many at most. Drawn once for all: what a run does not
-- use is never used, and does no harm.
local next_seq, last_seq = 1, 0

local function next_sequence(most)
  if next_seq > last_seq then
    last_seq = redis.call('INCRBY', SEQUENCE, most)
    next_seq = last_seq - most + 1
  end
  next_seq = next_seq + 1
  return next_seq - 1
end
