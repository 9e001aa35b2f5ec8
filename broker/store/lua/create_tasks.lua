#!lua
-- Creates tasks and rings their doorbells; each whose uuid or idempotency key is known attaches to the task that has it.
-- A full queue refuses a task, or drops an older one for it.
-- Not allow-oom: a full store must refuse new tasks so that the old ones can drain.
--
-- KEYS[1]   the index of all tasks
-- ARGV      1 most pending tasks of a queue   2 "1" when a full queue drops its oldest
--           then for each task: 1 uuid   2 terms, as `read_terms` gives them   3 its texts, each with a zero byte at its
--           end: seal, payload fingerprint, payload (JSON text, "" when absent)
-- returns   for each task: created ms, or {CREATED, created ms, task JSON} where that is asked for,
--           {ATTACHED, uuid, seal, state, attempt, created ms, expires ms, task JSON if asked for},
--           or {CONFLICT | MISMATCH | FULL | BROKEN, uuid or reason}
--
-- @include clock record read_ahead every admit register values each changes
local most_pending, drops_oldest = tonumber(ARGV[1]), ARGV[2] == '1'
local now, most_new = now_ms(), (#ARGV - 2) / 3

-- Terms are all that a create asks for beside its payload: queue, priority (0-9), delay, ttl and retention (ms),
-- max_attempts (nil for the handler's), is_chosen (the caller chose the uuid), wants_document (the answer should carry the
-- task JSON), idempotency (digest or nil). They come as one MessagePack list in the order that `scripts.py` has, so they
-- are one argument, and neighbours in a call, which mostly have the same, are read once.
local known_terms = {}

local function read_terms(text)
  local terms = known_terms[text]
  if not terms then
    terms = cmsgpack.unpack(text)
    known_terms[text] = terms
  end
  return terms
end

local function is_same_request(record, terms, fingerprint)
  return record.queue == terms.queue and record.fingerprint == fingerprint
end

local function document(uuid, record)
  -- @include task_json
  return task_json(uuid, record)
end

local function attach(uuid, record, terms)
  return { ATTACHED, uuid, record.seal, record.state, record.attempt, record.created, record.expires,
    terms.wants_document and document(uuid, record) or nil }
end

local function bind(record, idempotency, uuid)
  record.idempotency = idempotency
  redis.call('SET', IDEMPOTENCY .. idempotency, uuid)
end

-- The answer to a create whose idempotency key stands for a task already, or nil.
local function answer_of_key(uuid, terms, fingerprint)
  local bound = redis.call('GET', IDEMPOTENCY .. terms.idempotency)
  local record = bound and read_record(bound)
  if not record then
    return nil
  end
  if (terms.is_chosen and bound ~= uuid) or not is_same_request(record, terms, fingerprint) then
    return { MISMATCH, bound }
  end
  return attach(bound, record, terms)
end

-- The answer to a create whose uuid is known.
local function answer_of_uuid(uuid, record, terms, fingerprint)
  if not is_same_request(record, terms, fingerprint) then
    return { CONFLICT, uuid }
  end
  if terms.idempotency then
    if record.idempotency then
      return { MISMATCH, uuid }
    end
    bind(record, terms.idempotency, uuid)
    write_record(uuid, record)
  end
  return attach(uuid, record, terms)
end

local function create(start)
  local uuid, terms = ARGV[start], read_terms(ARGV[start + 1])
  local seal, fingerprint, payload = struct.unpack('sss', ARGV[start + 2])
  local answer = terms.idempotency and answer_of_key(uuid, terms, fingerprint)
  if answer then
    return answer
  end
  local record = read_record(uuid)
  if record then
    return answer_of_uuid(uuid, record, terms, fingerprint)
  end
  if not admit(terms.queue, terms.priority, most_pending, drops_oldest, now) then
    return { FULL, uuid }
  end

  record = new_record(terms.queue, terms.priority, next_sequence(most_new), now, terms.ttl, terms.retention, seal,
    fingerprint, #payload, terms.max_attempts or 0)
  if terms.delay > 0 then record.due = now + terms.delay end
  record.payload = store_value(uuid, record, 'payload', payload)
  if terms.idempotency then bind(record, terms.idempotency, uuid) end
  register(uuid, record)
  make_ready(uuid, record)
  -- A list inside the answer takes the server some 4,500 instructions more; most creates need none.
  return terms.wants_document and { CREATED, now, document(uuid, record) } or now
end

read_ahead(every(ARGV, 3, 3))
local answers = each(3, 3, create)
write_changes()
return answers
