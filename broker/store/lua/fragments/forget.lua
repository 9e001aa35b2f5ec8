-- forget(uuid, record): an ended task's record goes, with its values, events, indexes and idempotency key.
local function forget(uuid, record)
  if record.idempotency and redis.call('GET', IDEMPOTENCY .. record.idempotency) == uuid then
    redis.call('DEL', IDEMPOTENCY .. record.idempotency)
  end
  redis.call('UNLINK', TASK .. uuid, VALUES .. uuid, EVENTS .. uuid)
  redis.call('ZREM', RETAINED, uuid)
  redis.call('ZREM', ENDED, uuid)
  redis.call('ZREM', CREATED_INDEX, uuid)
  redis.call('DECRBY', RETAINED_BYTES, record.kept)
end
