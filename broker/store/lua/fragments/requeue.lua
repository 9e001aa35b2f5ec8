-- @include enqueue
-- requeue(uuid, record, attempt, due): a running task becomes pending again, at once or at `due` (ms, or nil).
-- It keeps its place: priority and age are the record's.
local function requeue(uuid, record, attempt, due)
  redis.call('ZREM', LEASES, uuid)
  count(record.queue, 'running', -1)
  redis.call('HDEL', TASK .. uuid, 'lease', 'worker', 'started')
  redis.call('HSET', TASK .. uuid, 'state', 'pending', 'attempt', attempt)
  record.state, record.attempt = 'pending', attempt
  record.lease, record.worker, record.started = nil, nil, nil
  if due then
    make_claimable_at(uuid, record, due)
  else
    make_claimable(uuid, record)
  end
end
