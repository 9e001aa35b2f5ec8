-- @include task_json integer changes record
-- settle(uuid, record, now, state, result, error, by_worker): the one way a task ends. Stores the terminal
-- state, takes the task out of every index of open tasks and announces the outcome, all in the script that calls it.
--
-- result, error: JSON text, or '' for none. by_worker: the lease holder ends its own task and need not be told.
local MESSAGE_MAX_BYTES = 1024
-- What a record costs beside its values: keys, indexes and their overhead, measured with MEMORY USAGE.
local RECORD_BYTES = 1000

local function leave_open_indexes(uuid, record)
  unindex(EXPIRING, uuid)
  if record.lease ~= '' then
    leave_lease(uuid, record)
  elseif record.due then
    unindex(DELAYED, uuid)
    count(record.queue, 'delayed', -1)
  elseif record.state == 'pending' then
    unindex(PENDING .. record.queue, uuid)
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
  -- What may fail on a damaged key comes first: half an end would be found by no sweep.
  local values = value_members(result, error_text, load_value(uuid, record, 'progress', record.progress))
  if record.last_error or record.large then record.last_error = drop_value(uuid, record, 'last_error') end
  if result ~= '' then record.result = store_value(uuid, record, 'result', result) end
  if error_text ~= '' then record.error = store_value(uuid, record, 'error', error_text) end
  leave_open_indexes(uuid, record)
  local worker = record.worker
  local event_bytes = record.events and string.match(record.events, ' (%d+) ') or 0
  record.state, record.finished, record.kept = state, now, RECORD_BYTES + record.size + #values + event_bytes
  record.lease, record.worker = '', ''
  -- Lua makes room in a list for a nil, too.
  if record.due then record.due = nil end
  write_record(uuid, record)
  index(RETAINED, uuid, integer(now + record.retention))
  index(ENDED, uuid, integer(now))
  keep_bytes(record.kept)
  if worker ~= '' and not by_worker then
    redis.call('PUBLISH', WORKER .. worker, uuid)
  end
  announce_outcome(uuid, record, values)
end

-- expire_if_over(uuid, record, now): ends an open task whose time is over; tells whether it did.
local function expire_if_over(uuid, record, now)
  if now < record.expires then
    return false
  end
  settle(uuid, record, now, 'expired', '', '')
  return true
end
