#!lua
-- Creates tasks and rings their doorbells; each whose uuid or idempotency key is known attaches to the task that has it.
-- A full queue refuses a task, or drops an older one for it.
-- Not allow-oom: a full store must refuse new tasks so that the old ones can drain.
--
-- KEYS[1]   the index of all tasks
-- ARGV      1 most pending tasks of a queue   2 "1" when a full queue drops its oldest
--           then for each task: 1 uuid   2 "1" when the caller chose it   3 queue   4 payload (JSON text, "" when absent)
--           5 payload fingerprint   6 priority 0-9   7 delay ms   8 time to live ms   9 retention ms   10 seal
--           11 max attempts ("" for the handler's)   12 idempotency digest ("" for none)
--           13 "1" when the answer should carry the task JSON
-- returns   for each task: {CREATED, created ms, task JSON if asked for},
--           {ATTACHED, uuid, seal, state, attempt, created ms, expires ms, task JSON if asked for},
--           or {CONFLICT | MISMATCH | FULL | BROKEN, uuid or reason}
--
-- @include clock integer record task_json admit register each changes
local most_pending, drops_oldest = tonumber(ARGV[1]), ARGV[2] == '1'
local now, most_new = now_ms(), (#ARGV - 2) / 13

local function attach(uuid, record, wants_document)
  return { ATTACHED, uuid, record.seal, record.state, record.attempt, record.created, record.expires,
    wants_document and task_json(uuid, record) or nil }
end

local function bind(idempotency, uuid)
  redis.call('SET', IDEMPOTENCY .. idempotency, uuid)
end

local function create(start)
  local uuid, chosen, queue, payload, fingerprint, priority, delay, ttl, retention, seal, max_attempts, idempotency,
    wants_document = unpack(ARGV, start, start + 12)
  wants_document = wants_document == '1'
  local function is_same_request(record)
    return record.queue == queue and record.fingerprint == fingerprint
  end

  if idempotency ~= '' then
    local bound = redis.call('GET', IDEMPOTENCY .. idempotency)
    local record = bound and read_record(bound)
    if record then
      if (chosen == '1' and bound ~= uuid) or not is_same_request(record) then
        return { MISMATCH, bound }
      end
      return attach(bound, record, wants_document)
    end
  end

  local record = read_record(uuid)
  if record then
    if not is_same_request(record) then
      return { CONFLICT, uuid }
    end
    if idempotency ~= '' then
      if record.idempotency then
        return { MISMATCH, uuid }
      end
      record.idempotency = idempotency
      bind(idempotency, uuid)
      write_record(uuid, record)
    end
    return attach(uuid, record, wants_document)
  end

  if not admit(queue, priority, most_pending, drops_oldest, now) then
    return { FULL, uuid }
  end
  record = {
    queue = queue, state = 'pending', attempt = 0, priority = tonumber(priority), seq = next_sequence(most_new), created = now,
    expires = now + ttl, retention = tonumber(retention), seal = seal, fingerprint = fingerprint, size = #payload,
    max_attempts = tonumber(max_attempts), due = delay ~= '0' and now + delay or nil,
  }
  if payload ~= '' then set_value(uuid, record, 'payload', payload) end
  if idempotency ~= '' then
    record.idempotency = idempotency
    bind(idempotency, uuid)
  end
  register(uuid, record)
  make_ready(uuid, record)
  return { CREATED, now, wants_document and task_json(uuid, record) or nil }
end

local answers = each(3, 13, create)
write_changes()
return answers
