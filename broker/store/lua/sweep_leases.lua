#!lua flags=allow-oom
-- Tasks whose lease ran out become pending again, or end `failed` when no attempt is left.
--
-- KEYS[1]   the leases
-- ARGV      1 most tasks to handle
-- returns   how many were handled
--
-- @include clock record settle requeue
local now = now_ms()
local uuids = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, ARGV[1])

-- A third party's repetition of this outcome is none: nobody could know it.
local NO_FINGERPRINT = ''

local function exhausted(uuid)
  local last_error = redis.call('HGET', VALUES .. uuid, 'last_error')
  return '{"code":"attempts-exhausted","message":"The last attempt lost its lease: its worker died or stalled."'
    .. (last_error and ',"details":' .. last_error or '') .. '}'
end

for _, uuid in ipairs(uuids) do
  local record = read_record(uuid)
  if not record or not record.lease then
    redis.call('ZREM', LEASES, uuid)
  elseif not expire_if_over(uuid, record, now) then
    if tonumber(record.attempt) >= tonumber(record.max_attempts) then
      settle(uuid, record, now, 'failed', nil, exhausted(uuid), NO_FINGERPRINT)
    else
      requeue(uuid, record, record.attempt, nil)
    end
  end
end
return #uuids
