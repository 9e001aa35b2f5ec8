-- @include task_json
-- settle(uuid, record, now, outcome): the one way a task ends. Stores the terminal state, takes the task out of every
-- index of open tasks and announces the outcome, all in the script that calls it.
--
-- outcome: state, result and error (JSON text or nil), fingerprint (compares repeated completions), by_worker (the
-- lease holder ends its own task and need not be told).
local MESSAGE_MAX_BYTES = 1024
-- What a record costs beside its values: keys, indexes and their overhead, measured with MEMORY USAGE.
local RECORD_BYTES = 1000

local function leave_open_indexes(uuid, record)
  if record.due then
    redis.call('ZREM', DELAYED, uuid)
  elseif record.state == 'pending' then
    redis.call('ZREM', PENDING .. record.queue, uuid)
  elseif record.lease then
    redis.call('ZREM', LEASES, uuid)
  end
end

local function announce_outcome(uuid, record, values)
  local head = '{"seal":"' .. record.seal .. '",'
  local message = head .. task_members(uuid, record, values) .. '}'
  if #message > MESSAGE_MAX_BYTES then
    message = head .. task_members(uuid, record, values, true) .. '}'
  end
  redis.call('PUBLISH', record.queue .. RESPONSE .. uuid, message)
end

local function settle(uuid, record, now, outcome)
  leave_open_indexes(uuid, record)
  local progress = redis.call('HGET', VALUES .. uuid, 'progress')
  local values = { result = outcome.result, error = outcome.error, progress = progress }
  if outcome.result then redis.call('HSET', VALUES .. uuid, 'result', outcome.result) end
  if outcome.error then redis.call('HSET', VALUES .. uuid, 'error', outcome.error) end
  local kept = RECORD_BYTES + record.size + #(outcome.result or '') + #(outcome.error or '') + #(progress or '')
  redis.call('HSET', TASK .. uuid, 'state', outcome.state, 'finished', now, 'outcome', outcome.fingerprint, 'kept', kept)
  if record.lease or record.due then
    redis.call('HDEL', TASK .. uuid, 'lease', 'worker', 'due')
  end
  redis.call('ZADD', DEADLINES, now + record.retention, uuid)
  redis.call('ZADD', FINISHED, now, uuid)
  redis.call('INCRBY', FINISHED_BYTES, kept)
  if record.worker and not outcome.by_worker then
    redis.call('PUBLISH', WORKER .. record.worker, uuid)
  end
  record.state, record.finished = outcome.state, now
  announce_outcome(uuid, record, values)
end

-- expire_if_over(uuid, record, now): ends an open task whose time is over; tells whether it did.
local function expire_if_over(uuid, record, now)
  if now < tonumber(record.expires) then
    return false
  end
  settle(uuid, record, now, { state = 'expired', fingerprint = '' })
  return true
end
