#!lua flags=allow-oom
-- Gives a worker up to so many tasks of each of its queues: highest priority first, then oldest. Each comes with a
-- lease `<fence>.<secret>`: the fence is a counter that never repeats, the secret keeps the lease from being guessed.
--
-- KEYS[1]   the first queue's pending key
-- ARGV      1 worker   2 secret   3 lease ms   4 most tasks in all   5 "1" when each should carry its task JSON
--           then, a queue each: queue, most tasks, max attempts where the task names none
-- returns   a list of texts, a task each: attempt, lease end ms, created ms and expires ms as `struct` writes numbers, then
--           uuid, queue, lease, payload ("" for none) and task JSON ("" where it is not wanted), joined by the byte 31;
--           then of {queue, ms until its rate lets another task start} for queues that hold more
--
-- One text a task: a list inside an answer takes the server some 4,500 instructions more. JSON holds no such byte, and
-- none of the other texts does.
--
-- @include clock integer record read_ahead for_each values changes limits
local worker, secret, most, wants_json, now = ARGV[1], ARGV[2], tonumber(ARGV[4]), ARGV[5] == '1', now_ms()
local lease_end = now + ARGV[3]
local claimed, limited, limits = {}, {}, nil
-- Members that may be looked at in one call, should many have expired: the server has other callers.
local most_looks = 1000

local function expire(uuid, record)
  -- @include settle
  settle(uuid, record, now, 'expired', '', '')
end

local function read_claimable(uuid)
  local record = read_record(uuid)
  if not record or record.state ~= 'pending' then
    return nil
  end
  if now >= record.expires then
    expire(uuid, record)
    return nil
  end
  return record
end

local function document(uuid, record)
  -- @include task_json
  return task_json(uuid, record)
end

local function claim(uuid, queue, fence, max_attempts)
  local record = read_claimable(uuid)
  if not record then
    return
  end
  record.state, record.attempt, record.started = 'running', record.attempt + 1, now
  record.lease, record.worker = integer(fence) .. '.' .. secret, worker
  if record.max_attempts == 0 then record.max_attempts = tonumber(max_attempts) end
  if limits and limits.running then record.limited = 1 end
  -- What may fail on a damaged key comes first, as in `settle`: half a claim would be counted nowhere.
  local text = struct.pack(CLAIM_NUMBERS, record.attempt, lease_end, record.created, record.expires)
    .. uuid .. '\31' .. queue .. '\31' .. record.lease .. '\31'
    .. load_value(uuid, record, 'payload', record.payload) .. '\31' .. (wants_json and document(uuid, record) or '')
  write_record(uuid, record)
  index(LEASES, uuid, integer(lease_end))
  claimed[#claimed + 1] = text
end

local function claim_all(uuids, queue, max_attempts)
  local fence = redis.call('INCRBY', SEQUENCE, integer(#uuids)) - #uuids
  read_ahead(uuids)
  -- These are in no index of pending tasks any more: one that cannot be read must not take the others with it.
  for_each(uuids, function(uuid, place)
    claim(uuid, queue, fence + place, max_attempts)
  end)
end

local function pop_from(queue, wanted, max_attempts)
  local goal = math.min(#claimed + wanted, most)
  -- A member whose record is gone or ended gives no task: pop again until the queue is empty or the wish fulfilled.
  while #claimed < goal and most_looks > 0 do
    local asked = math.min(goal - #claimed, most_looks)
    local uuids = redis.call('ZRANGE', PENDING .. queue, 0, integer(asked - 1))
    if #uuids > 0 then
      -- ZPOPMIN would write each score as text, which takes longer than a second call even for one task.
      redis.call('ZREMRANGEBYRANK', PENDING .. queue, 0, integer(#uuids - 1))
      most_looks = most_looks - #uuids
      claim_all(uuids, queue, max_attempts)
    end
    if #uuids < asked then
      return
    end
  end
end

local function claim_from(queue, wanted, max_attempts)
  local before = #claimed
  pop_from(queue, wanted, max_attempts)
  if #claimed > before then
    count(queue, 'running', #claimed - before)
  end
  return #claimed - before
end

local function room_to_run(queue)
  return limits.running - (redis.call('HGET', QUEUE .. queue, 'running') or 0)
end

local function claim_within_limits(queue, wanted, max_attempts)
  local room, total = wanted, 0
  if limits.running then
    room = math.min(room, room_to_run(queue))
  end
  local starts = room
  if limits.starts then
    starts, total = room_to_start(queue, limits, now)
    room = math.min(room, starts)
  end
  local number = room > 0 and claim_from(queue, room, max_attempts) or 0
  -- Written now, should the queue be named twice.
  write_changes()
  if limits.starts then
    if number > 0 then
      note_starts(queue, limits, now, total, number)
    end
    if number >= starts and redis.call('EXISTS', PENDING .. queue) == 1 then
      limited[#limited + 1] = { queue, ms_to_start(queue, limits, now) }
    end
  end
end

local queues = {}
for i = 6, #ARGV, 3 do
  queues[#queues + 1] = ARGV[i]
end
local found = redis.call('HMGET', LIMITS, unpack(queues))
for i = 1, #queues do
  local place = 3 + 3 * i
  if found[i] then
    limits = parse_limits(found[i])
    claim_within_limits(ARGV[place], tonumber(ARGV[place + 1]), ARGV[place + 2])
    limits = nil
  else
    claim_from(ARGV[place], tonumber(ARGV[place + 1]), ARGV[place + 2])
  end
end
write_changes()
for i = 1, #limited do
  claimed[#claimed + 1] = limited[i]
end
return claimed
