-- A task's record is a field of one hash for all tasks, named by the uuid: its parts one after the other, as MessagePack. In
-- a script it is a list, of which `record.state` stands for the place of that part: `scripts.py` has their order and puts
-- the numbers in. A list of so many takes a third of the time that a table with names takes to make and to write.
--
-- Parts: format, queue, state, attempt, priority, seq (age), created, expires, retention (ms), seal, fingerprint (of the
-- payload), size (payload bytes); while they apply: max_attempts, payload, started, lease, worker, finished, kept (bytes
-- counted at the end), result, error, progress, last_error, large, due, idempotency (digest), retry_of, events (as
-- `events.lua` has it), limited (it runs within a limit of its queue). Values are as `values.lua` has them, times in ms. A
-- new part goes to the end: records outlive deployments.
local RECORD_FORMAT = 1

-- What this run knows of records: their texts as they are now (false: there is none), and what is to be written of them,
-- uuids and texts in turns. A run reads each record once and writes all changed ones by one call at its end.
local texts, written = {}, {}

local function read_record(uuid)
  local text = texts[uuid]
  if text == nil then
    text = redis.call('HGET', TASKS, uuid)
    texts[uuid] = text
  end
  if not text then
    return nil
  end
  local record = { cmsgpack.unpack(text) }
  if record.format ~= RECORD_FORMAT then
    error('This is no record of a task.')
  end
  return record
end

-- Changes a record, for the rest of this run; write_records() stores it. Parts behind the last common one are mostly
-- absent, and stay away at the end.
local function write_record(uuid, record)
  local last = RECORD_LENGTH
  while last > RECORD_COMMON and record[last] == nil do
    last = last - 1
  end
  local text, place = cmsgpack.pack(unpack(record, 1, last)), #written
  texts[uuid], written[place + 1], written[place + 2] = text, uuid, text
end

local function write_records()
  if #written > 0 then
    redis.call('HSET', TASKS, unpack(written))
    written = {}
  end
end

local function is_open(record)
  local state = record.state
  return state == 'pending' or state == 'running'
end
