-- @include changes
-- forget(uuid, record): an ended task's record goes, with its values, events, indexes and idempotency key.
local function forget(uuid, record)
  if record.idempotency and redis.call('GET', IDEMPOTENCY .. record.idempotency) == uuid then
    redis.call('DEL', IDEMPOTENCY .. record.idempotency)
  end
  redis.call('UNLINK', TASK .. uuid, VALUES .. uuid, EVENTS .. uuid)
  index(RETAINED, uuid, false)
  index(ENDED, uuid, false)
  index(CREATED_INDEX, uuid, false)
  keep_bytes(-record.kept)
end
