#!lua flags=allow-oom
-- Gives a worker up to so many tasks of each of its queues: highest priority first, then oldest. Each comes with a
-- lease `<fence>.<secret>`: the fence is a counter that never repeats, the secret keeps the lease from being guessed.
--
-- KEYS[1]   the first queue's pending key
-- ARGV      1 worker   2 secret   3 lease ms   4 most tasks in all   5 "1" when each should carry its task JSON
--           then, a queue each: queue, most tasks, max attempts where the task names none
-- returns   a list of {uuid, queue, attempt, lease, lease end ms, created ms, expires ms, payload or false, task JSON
--           where it is wanted}
--
-- @include clock integer record settle changes
local worker, secret, most, wants_json, now = ARGV[1], ARGV[2], tonumber(ARGV[4]), ARGV[5] == '1', now_ms()
local lease_end = integer(now + ARGV[3])
local claimed = {}
-- Members that may be looked at in one call, should many have expired: the server has other callers.
local most_looks = 1000

local function read_claimable(uuid)
  local record = read_record(uuid)
  if not record or record.state ~= 'pending' or expire_if_over(uuid, record, now) then
    return nil
  end
  return record
end

local function claim(uuid, queue, fence, max_attempts)
  local record = read_claimable(uuid)
  if not record then
    return
  end
  record.state, record.attempt, record.started = 'running', record.attempt + 1, now
  record.lease, record.worker = integer(fence) .. '.' .. secret, worker
  record.max_attempts = record.max_attempts or tonumber(max_attempts)
  write_record(uuid, record)
  index(LEASES, uuid, lease_end)
  claimed[#claimed + 1] = { uuid, queue, record.attempt, record.lease, lease_end, record.created, record.expires,
    read_value(uuid, record, 'payload'), wants_json and task_json(uuid, record) or nil }
end

local function pop_from(queue, wanted, max_attempts)
  local goal = math.min(#claimed + wanted, most)
  -- A member whose record is gone or ended gives no task: pop again until the queue is empty or the wish fulfilled.
  while #claimed < goal and most_looks > 0 do
    local popped = redis.call('ZPOPMIN', PENDING .. queue, math.min(goal - #claimed, most_looks))
    most_looks = most_looks - #popped / 2
    if #popped == 0 then
      return
    end
    local last_fence = redis.call('INCRBY', SEQUENCE, #popped / 2)
    for i = 1, #popped, 2 do
      claim(popped[i], queue, last_fence - (#popped - i - 1) / 2, max_attempts)
    end
  end
end

local function claim_from(queue, wanted, max_attempts)
  local before = #claimed
  pop_from(queue, wanted, max_attempts)
  if #claimed > before then
    count(queue, 'running', #claimed - before)
  end
end

for i = 6, #ARGV, 3 do
  claim_from(ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2])
end
write_changes()
return claimed
