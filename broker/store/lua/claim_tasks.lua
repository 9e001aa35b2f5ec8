#!lua flags=allow-oom
-- Gives a worker up to so many tasks of each of its queues: highest priority first, then oldest. Each comes with a
-- lease `<fence>.<secret>`: the fence is a counter that never repeats, the secret keeps the lease from being guessed.
--
-- KEYS[1]   the first queue's pending key
-- ARGV      1 worker   2 secret   3 lease ms   then, a queue each: queue, most tasks, max attempts where the task
--           names none
-- returns   a list of {uuid, queue, attempt, lease, lease end ms, created ms, expires ms, payload or false}
--
-- @include clock record settle
local worker, secret, now = ARGV[1], ARGV[2], now_ms()
local lease_end = now + ARGV[3]
local claimed = {}

local function claim(uuid, max_attempts)
  local record = read_record(uuid)
  if not record or record.state ~= 'pending' or expire_if_over(uuid, record, now) then
    return false
  end
  local attempt = record.attempt + 1
  local lease = redis.call('INCR', SEQUENCE) .. '.' .. secret
  redis.call('HSET', TASK .. uuid, 'state', 'running', 'attempt', attempt, 'started', now, 'lease', lease,
    'worker', worker, 'max_attempts', record.max_attempts or max_attempts)
  redis.call('ZADD', LEASES, lease_end, uuid)
  local payload = record.size ~= '0' and redis.call('HGET', VALUES .. uuid, 'payload')
  claimed[#claimed + 1] = { uuid, record.queue, attempt, lease, lease_end, record.created, record.expires, payload }
  return true
end

for i = 4, #ARGV, 3 do
  local wanted = tonumber(ARGV[i + 1])
  -- A member whose record is gone or ended gives no task: pop again until the queue is empty or the wish fulfilled.
  while wanted > 0 do
    local popped = redis.call('ZPOPMIN', PENDING .. ARGV[i], wanted)
    if #popped == 0 then
      break
    end
    for j = 1, #popped, 2 do
      if claim(popped[j], ARGV[i + 2]) then
        wanted = wanted - 1
      end
    end
  end
end
return claimed
