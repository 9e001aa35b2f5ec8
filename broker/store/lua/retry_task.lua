#!lua
-- Makes a new task of one that failed or expired: same queue, payload, priority, limits and time to live. The ended
-- one never changes. Not allow-oom, as every create.
--
-- KEYS[1]   the tasks' records
-- ARGV      1 its uuid   2 the new task's uuid   3 the new task's seal   4 idempotency digest ("" for none)
--           5 most pending tasks of the queue   6 "1" when a full queue drops its oldest
-- returns   {CREATED | ATTACHED, uuid, queue, seal, state, task JSON} of the new task, {FINAL, state, task JSON} when
--           it ended otherwise, {CONFLICT, state} while it is open, {FULL, queue} or {NOT_FOUND}
--
-- @include clock record settle admit register changes
local origin, uuid, idempotency = ARGV[1], ARGV[2], ARGV[4]

local function reply(code, new_uuid, record)
  return { code, new_uuid, record.queue, record.seal, record.state, task_json(new_uuid, record) }
end

if idempotency ~= '' then
  local bound = redis.call('GET', IDEMPOTENCY .. idempotency)
  local record = bound and read_record(bound)
  if record then
    return reply(ATTACHED, bound, record)
  end
end

local old = read_record(origin)
if not old then
  return { NOT_FOUND }
end
local now = now_ms()
if is_open(old) and not expire_if_over(origin, old, now) then
  return { CONFLICT, old.state }
end
write_changes()
if old.state ~= 'failed' and old.state ~= 'expired' then
  return { FINAL, old.state, task_json(origin, old) }
end
if not admit(old.queue, old.priority, tonumber(ARGV[5]), ARGV[6] == '1', now) then
  return { FULL, old.queue }
end

local record = new_record(old.queue, old.priority, next_sequence(1), now, old.expires - old.created, old.retention,
  ARGV[3], old.fingerprint, old.size, old.max_attempts)
record.retry_of = origin
record.payload = store_value(uuid, record, 'payload', load_value(origin, old, 'payload', old.payload))
if idempotency ~= '' then
  record.idempotency = idempotency
  redis.call('SET', IDEMPOTENCY .. idempotency, uuid)
end
register(uuid, record)
make_ready(uuid, record)
write_changes()
return reply(CREATED, uuid, record)
