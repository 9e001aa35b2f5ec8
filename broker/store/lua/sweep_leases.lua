#!lua flags=allow-oom
-- Tasks whose lease ran out become pending again, or end `failed` when no attempt is left.
--
-- KEYS[1]   the leases
-- ARGV      1 most tasks to handle
-- returns   how many were handled
--
-- @include clock record read_ahead for_each settle requeue changes
local now = now_ms()
local uuids = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, ARGV[1])

local function exhausted(uuid, record)
  local last_error = load_value(uuid, record, 'last_error', record.last_error)
  return '{"code":"attempts-exhausted","message":"The last attempt lost its lease: its worker died or stalled."'
    .. (last_error ~= '' and ',"details":' .. last_error or '') .. '}'
end

local function drop(uuid)
  unindex(LEASES, uuid)
end

local function free(uuid)
  local record = read_record(uuid)
  if not record or record.lease == '' then
    drop(uuid)
  elseif not expire_if_over(uuid, record, now) then
    if record.attempt >= record.max_attempts then
      settle(uuid, record, now, 'failed', '', exhausted(uuid, record))
    else
      requeue(uuid, record, record.attempt)
    end
  end
end

read_ahead(uuids)
for_each(uuids, free, drop)
write_changes()
return #uuids
