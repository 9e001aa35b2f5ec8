-- @include ring_first
-- Changes of indexes and numbers are gathered while a script runs and written at its end, one call a key: a script that
-- handles several tasks pays for each index once. A script that changes any ends with write_changes(); whoever reads
-- one that this run may have changed calls it before.
local scores, numbers, kept_bytes = {}, {}, 0

-- index(key, uuid, score): puts a task into a sorted set, or takes it out where the score is false.
local function index(key, uuid, score)
  local changes = scores[key]
  if not changes then
    changes = {}
    scores[key] = changes
  end
  changes[uuid] = score
end

-- count(queue, what, by): keeps how many tasks of a queue are `running` (with a lease), `deferred` (without one) or
-- `delayed`. Claimable ones are counted by their index.
local function count(queue, what, by)
  local changes = numbers[queue]
  if not changes then
    changes = {}
    numbers[queue] = changes
  end
  changes[what] = (changes[what] or 0) + by
end

-- keep_bytes(by): keeps about how many bytes the records of ended tasks take.
local function keep_bytes(by)
  kept_bytes = kept_bytes + by
end

-- leave_lease(uuid, record): a running task has no lease any more. Whoever waits for its place within a limit of its queue
-- is told as soon as it is free.
local freed

local function leave_lease(uuid, record)
  index(LEASES, uuid, false)
  count(record.queue, 'running', -1)
  if record.limited then
    freed = freed or {}
    if not freed[record.queue] then
      freed[record.queue] = true
      freed[#freed + 1] = record.queue
    end
    record.limited = nil
  end
end

local function write_index(key, changes)
  local put, take, last_put, last_take = { key }, { key }, 1, 1
  for uuid, score in pairs(changes) do
    if score then
      put[last_put + 1], put[last_put + 2] = score, uuid
      last_put = last_put + 2
    else
      last_take = last_take + 1
      take[last_take] = uuid
    end
  end
  if last_put > 1 then redis.call('ZADD', unpack(put)) end
  if last_take > 1 then redis.call('ZREM', unpack(take)) end
end

local function write_changes()
  for key, changes in pairs(scores) do
    write_index(key, changes)
  end
  for queue, changes in pairs(numbers) do
    for what, by in pairs(changes) do
      if by ~= 0 then redis.call('HINCRBY', QUEUE .. queue, what, by) end
    end
  end
  if kept_bytes ~= 0 then redis.call('INCRBY', RETAINED_BYTES, kept_bytes) end
  scores, numbers, kept_bytes = {}, {}, 0
  if freed then
    for i = 1, #freed do
      ring_first(freed[i])
    end
    freed = nil
  end
end
