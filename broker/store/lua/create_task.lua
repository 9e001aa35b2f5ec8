#!lua
-- Creates a task and rings its doorbell, or attaches to the one that already has the uuid or the idempotency key.
-- A full queue refuses it, or drops an older one for it.
-- Not allow-oom: a full store must refuse new tasks so that the old ones can drain.
--
-- KEYS[1]   the record's key
-- ARGV      1 uuid   2 "1" when the caller chose the uuid   3 queue   4 payload (JSON text, "" when absent)
--           5 payload fingerprint   6 priority 0-9   7 delay ms   8 time to live ms   9 retention ms
--           10 seal   11 most pending tasks of the queue   12 "1" when a full queue drops its oldest
--           13 max attempts ("" for the handler's)   14 idempotency digest ("" for none)
--           15 "1" when the reply should carry the task JSON
-- returns   {CREATED | ATTACHED, uuid, seal, state, attempt, created ms, expires ms, task JSON or false},
--           or {CONFLICT | MISMATCH | FULL, uuid}
--
-- @include clock integer record task_json admit register
local uuid, chosen, queue, payload, fingerprint = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4], ARGV[5]
local max_attempts, idempotency, wants_document = ARGV[13] or '', ARGV[14] or '', ARGV[15] == '1'

local function reply(code, record)
  return { code, uuid, record.seal, record.state, record.attempt, record.created, record.expires,
    wants_document and task_json(uuid, record) }
end

local function is_same_request(record)
  return record.queue == queue and record.fingerprint == fingerprint
end

local function bind_idempotency()
  redis.call('SET', IDEMPOTENCY .. idempotency, uuid)
  redis.call('HSET', TASK .. uuid, 'idempotency', idempotency)
end

if idempotency ~= '' then
  local bound = redis.call('GET', IDEMPOTENCY .. idempotency)
  local record = bound and read_record(bound)
  if record then
    if (chosen and bound ~= uuid) or not is_same_request(record) then
      return { MISMATCH, bound }
    end
    uuid = bound
    return reply(ATTACHED, record)
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
    bind_idempotency()
  end
  return reply(ATTACHED, record)
end

local now = now_ms()
if not admit(queue, ARGV[6], tonumber(ARGV[11]), ARGV[12] == '1', now) then
  return { FULL, uuid }
end
record = {
  queue = queue, state = 'pending', attempt = '0', priority = ARGV[6], seq = integer(redis.call('INCR', SEQUENCE)),
  created = integer(now), expires = integer(now + ARGV[8]), seal = ARGV[10],
}
local fields = { 'queue', queue, 'state', 'pending', 'attempt', '0', 'priority', record.priority, 'seq', record.seq,
  'created', record.created, 'expires', record.expires, 'retention', ARGV[9], 'seal', record.seal, 'fingerprint', fingerprint,
  'size', integer(#payload) }
if max_attempts ~= '' then
  fields[#fields + 1] = 'max_attempts'
  fields[#fields + 1] = max_attempts
end
if payload ~= '' then add_value(fields, uuid, 'payload', payload) end
register(uuid, record, fields)
if idempotency ~= '' then bind_idempotency() end
if ARGV[7] == '0' then
  make_claimable(uuid, record)
else
  make_claimable_at(uuid, record, now + ARGV[7])
end
return reply(CREATED, record)
