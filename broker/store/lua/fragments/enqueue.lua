-- @include integer changes bell
-- make_claimable(uuid, record): puts a pending task into its queue and rings its doorbell.
-- The score orders by priority, then age: 2^48 tasks fit below one step of priority. Of most, whose priority is 0, it is
-- the age itself, so that one number less has to be written as text.
local PRIORITY_STEP = 281474976710656

local function make_claimable(uuid, record)
  index(PENDING .. record.queue, uuid, integer(record.seq - record.priority * PRIORITY_STEP))
  ring(record.queue, uuid, record.attempt)
end

-- make_ready(uuid, record): makes a pending task claimable, or, where it has a due time, has a sweep do so then.
local function make_ready(uuid, record)
  if record.due then
    index(DELAYED, uuid, integer(record.due))
    count(record.queue, 'delayed', 1)
  else
    make_claimable(uuid, record)
  end
end
