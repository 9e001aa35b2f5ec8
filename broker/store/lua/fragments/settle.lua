-- @include task_json integer queue
-- settle(uuid, record, now, state, result, error, by_worker): the one way a task ends. Stores the terminal
-- state, takes the task out of every index of open tasks and announces the outcome, all in the script that calls it.
--
-- result, error: JSON text or nil. by_worker: the lease holder ends its own task and need not be told.
local MESSAGE_MAX_BYTES = 1024
-- What a record costs beside its values: keys, indexes and their overhead, measured with MEMORY USAGE.
local RECORD_BYTES = 1000

local function leave_open_indexes(uuid, record)
  redis.call('ZREM', EXPIRING, uuid)
  if record.lease then
    redis.call('ZREM', LEASES, uuid)
    count(record.queue, 'running', -1)
  elseif record.due then
    redis.call('ZREM', DELAYED, uuid)
    count(record.queue, 'delayed', -1)
  elseif record.state == 'pending' then
    redis.call('ZREM', PENDING .. record.queue, uuid)
  else
    count(record.queue, 'deferred', -1)
  end
end

local function announce_outcome(uuid, record, values)
  local opening = '{"seal":"' .. record.seal .. '",'
  local message = #values < MESSAGE_MAX_BYTES and render_task(opening, uuid, record, values)
  if not message or #message > MESSAGE_MAX_BYTES then
    message = render_task(opening, uuid, record, ',"omitted":true')
  end
  redis.call('PUBLISH', record.queue .. RESPONSE .. uuid, message)
end

local function settle(uuid, record, now, state, result, error_text, by_worker)
  leave_open_indexes(uuid, record)
  local values = value_members(result, error_text, read_value(uuid, record, 'progress'))
  local kept = RECORD_BYTES + record.size + #values + (record.event_bytes or 0)
  local fields = { 'state', state, 'finished', integer(now), 'kept', integer(kept) }
  if result then add_value(fields, uuid, 'result', result) end
  if error_text then add_value(fields, uuid, 'error', error_text) end
  redis.call('HSET', TASK .. uuid, unpack(fields))
  if record.lease or record.due or record.last_error then
    redis.call('HDEL', TASK .. uuid, 'lease', 'worker', 'due', 'last_error')
  end
  if record.large then
    redis.call('HDEL', VALUES .. uuid, 'last_error')
  end
  redis.call('ZADD', RETAINED, integer(now + record.retention), uuid)
  redis.call('ZADD', ENDED, fields[4], uuid)
  redis.call('INCRBY', RETAINED_BYTES, fields[6])
  if record.worker and not by_worker then
    redis.call('PUBLISH', WORKER .. record.worker, uuid)
  end
  record.state, record.finished, record.result, record.error = state, now, result, error_text
  announce_outcome(uuid, record, values)
end

-- expire_if_over(uuid, record, now): ends an open task whose time is over; tells whether it did.
local function expire_if_over(uuid, record, now)
  if now < tonumber(record.expires) then
    return false
  end
  settle(uuid, record, now, 'expired')
  return true
end
