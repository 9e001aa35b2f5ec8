-- read_record(uuid): a task's record as a table of strings, or nil.
--
-- Fields: queue, state, attempt, priority, seq (age), created, expires, retention (ms), seal, fingerprint (of the
-- payload), size (payload bytes); while they apply: max_attempts, idempotency (digest), due, started, lease, worker,
-- finished, kept (bytes counted at the end), events (how many there were), event_bytes (that are kept), reports (the
-- last ones), retry_of ("" when it is as long as a value that is stored apart); and values, as `values.lua` has them:
-- payload, result, error, progress, last_error.
local function read_record(uuid)
  local flat = redis.call('HGETALL', TASK .. uuid)
  if #flat == 0 then
    return nil
  end
  local record = {}
  for i = 1, #flat, 2 do
    record[flat[i]] = flat[i + 1]
  end
  return record
end

local function is_open(record)
  return record.state == 'pending' or record.state == 'running'
end
