-- @include record integer
-- Changes of records, indexes and numbers are gathered while a script runs and written at its end, one call a key: a
-- script that handles several tasks pays for each index once. A script that changes any ends with write_changes(); whoever reads
-- one that this run may have changed calls it before.
local puts, takes, numbers, kept_bytes = {}, {}, {}, 0

-- index(key, uuid, score): puts a task into a sorted set. Of one task and set, the last put counts; to put it in and take
-- it out in one run, write in between.
local function index(key, uuid, score)
  local words = puts[key]
  if words then
    local last = #words
    words[last + 1], words[last + 2] = score, uuid
  else
    puts[key] = { key, score, uuid }
  end
end

-- unindex(key, uuid): takes a task out of a sorted set.
local function unindex(key, uuid)
  local words = takes[key]
  if words then
    words[#words + 1] = uuid
  else
    takes[key] = { key, uuid }
  end
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
  unindex(LEASES, uuid)
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

local function ring_freed()
  -- @include ring_first
  for i = 1, #freed do
    ring_first(freed[i])
  end
  freed = nil
end

local function write_changes()
  write_records()
  for _, words in pairs(takes) do
    redis.call('ZREM', unpack(words))
  end
  for _, words in pairs(puts) do
    redis.call('ZADD', unpack(words))
  end
  for queue, changes in pairs(numbers) do
    for what, by in pairs(changes) do
      if by ~= 0 then redis.call('HINCRBY', QUEUE .. queue, what, integer(by)) end
    end
  end
  if kept_bytes ~= 0 then redis.call('INCRBY', RETAINED_BYTES, integer(kept_bytes)) end
  puts, takes, numbers, kept_bytes = {}, {}, {}, 0
  if freed then ring_freed() end
end
