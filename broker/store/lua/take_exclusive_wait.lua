#!lua
-- Makes one caller the only one who waits for a task, unless somebody on any instance waits for it already.
--
-- Whoever waits is subscribed to the task's response channel. A marker stands for a caller who is let in until its own
-- subscription is there: of several who race, one finds neither.
-- A task that has ended, and a request that the create will refuse, are nobody's to wait for: the create answers them.
--
-- KEYS[1]   the tasks' records
-- ARGV      1 uuid   2 "1" when the caller chose the uuid   3 queue   4 payload fingerprint   5 who asks
--           6 how long the marker stands, ms ("0": this caller will not wait)   7 idempotency digest ("" for none)
-- returns   {FREE | WAITED, uuid of the task}
--
-- @include record
local uuid, chosen, queue, fingerprint, idempotency = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4], ARGV[7] or ''

local markers = {}
if idempotency ~= '' then
  markers[1] = EXCLUSIVE_KEY .. idempotency
  local bound = redis.call('GET', IDEMPOTENCY .. idempotency)
  if bound then
    if chosen and bound ~= uuid then
      return { FREE, uuid }
    end
    uuid, chosen = bound, true
  end
end

if chosen then
  -- A uuid that was made just now is known to nobody who could wait for it.
  markers[#markers + 1] = EXCLUSIVE .. uuid
  local record = read_record(uuid)
  if record and (not is_open(record) or record.queue ~= queue or record.fingerprint ~= fingerprint) then
    return { FREE, uuid }
  end
  if redis.call('PUBSUB', 'NUMSUB', queue .. RESPONSE .. uuid)[2] > 0 then
    return { WAITED, uuid }
  end
end

for _, marker in ipairs(markers) do
  if redis.call('EXISTS', marker) == 1 then
    return { WAITED, uuid }
  end
end
if ARGV[6] ~= '0' then
  for _, marker in ipairs(markers) do
    redis.call('SET', marker, ARGV[5], 'PX', ARGV[6])
  end
end
return { FREE, uuid }
