-- @include integer queue
-- make_claimable(uuid, record): puts a pending task into its queue and rings its doorbell.
-- The score orders by priority, then age: 2^48 tasks fit below one step of priority.
local PRIORITY_STEP = 281474976710656

local function make_claimable(uuid, record)
  redis.call('ZADD', PENDING .. record.queue, integer((9 - record.priority) * PRIORITY_STEP + record.seq), uuid)
  redis.call('PUBLISH', record.queue .. REQUEST .. uuid,
    '{"uuid":"' .. uuid .. '","queue":"' .. record.queue .. '","attempt":' .. record.attempt .. '}')
end

-- make_claimable_at(uuid, record, due): the same, later; a sweep does it then.
local function make_claimable_at(uuid, record, due)
  local text = integer(due)
  redis.call('HSET', TASK .. uuid, 'due', text)
  redis.call('ZADD', DELAYED, text, uuid)
  count(record.queue, 'delayed', 1)
end
