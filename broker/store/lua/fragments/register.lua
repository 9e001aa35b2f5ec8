-- @include integer changes record
-- register(uuid, record): stores a new task and puts it into the indexes of all and of open tasks.
local function register(uuid, record)
  write_record(uuid, record)
  index(EXPIRING, uuid, integer(record.expires))
  index(CREATED_INDEX, uuid, integer(record.seq))
end

local next_seq, last_seq = 1, 0
local SEQUENCE_BLOCK = 8

-- next_sequence(): a new task's age. Drawn in blocks: what a run does not use is never used, and does no harm.
local function next_sequence()
  if next_seq > last_seq then
    last_seq = redis.call('INCRBY', SEQUENCE, SEQUENCE_BLOCK)
    next_seq = last_seq - SEQUENCE_BLOCK + 1
  end
  next_seq = next_seq + 1
  return next_seq - 1
end
