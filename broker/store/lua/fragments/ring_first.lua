-- @include bell record
-- ring_first(queue): rings for the task that is claimed next, if there is one. A limit that kept it back does so no more.
local function ring_first(queue)
  local uuid = redis.call('ZRANGE', PENDING .. queue, 0, 0)[1]
  if uuid then
    local record = read_record(uuid)
    ring(queue, uuid, record and record.attempt or 0)
  end
end
