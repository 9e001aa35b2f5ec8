-- @include changes
-- forget(uuid, record): an ended task's record goes, with its values, events, indexes and idempotency key.
local function forget(uuid, record)
  if record.idempotency and redis.call('GET', IDEMPOTENCY .. record.idempotency) == uuid then
    redis.call('DEL', IDEMPOTENCY .. record.idempotency)
  end
  redis.call('HDEL', TASKS, uuid)
  redis.call('UNLINK', VALUES .. uuid, EVENTS .. uuid)
  texts[uuid] = false
  unindex(RETAINED, uuid)
  unindex(ENDED, uuid)
  unindex(CREATED_INDEX, uuid)
  keep_bytes(-record.kept)
end
