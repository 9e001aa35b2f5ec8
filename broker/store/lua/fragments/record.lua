-- A task's record is a field of one hash for all tasks, named by the uuid: its parts one after the other, as the `struct`
-- library writes them: texts with a zero byte at their end, numbers as doubles, small ones as a byte. In a script it is a
-- list, of which `record.state` stands for the place of that part: `scripts.py` has their order and puts the numbers in.
-- MessagePack takes half as long again to write, since it makes a Lua string of each part; that it is read faster does not
-- make up for it.
--
-- Parts of each: format, queue, state, attempt, priority, seq (age), created, expires, retention (ms), seal, fingerprint (of
-- the payload), size (payload bytes); while they apply, and '' or 0 while they do not: max_attempts, payload, started,
-- lease, worker, finished, kept (bytes counted at the end), result. Behind them, where any applies: error, progress,
-- last_error, large (1: some value is not in the record), due, idempotency (digest), retry_of, events (as `events.lua` has
-- it), limited (1: it runs within a limit of its queue). In the list these are nil while they do not apply: most tasks
-- never have one, and all nine cost a task a twentieth of its scripts. Values are as `values.lua` has them, times in ms. No
-- text holds a zero byte, none that applies is empty.
--
-- Records outlive deployments: a new part goes to the end, and the number of the format up. Whoever knows a lower number
-- reads the parts in front, and writes those alone; whoever knows a higher one puts zero bytes behind what it reads, as
-- many as an absent part has.
local RECORD_FORMAT = 3
-- Of format 2, which had all parts always, the same reads all.
local OLDEST_FORMAT = 2

-- What this run knows of records: their texts as they are now (false: there is none), and what is to be written of them,
-- uuids and texts in turns. A run reads each record once and writes all changed ones by one call at its end.
local texts, written = {}, {}

local function read_rare_parts(record, text, place)
  local parts = { struct.unpack(RARE_LAYOUT, text, place) }
  for i = 1, RARE_LENGTH do
    local part = parts[i]
    if part ~= '' and part ~= 0 then record[COMMON_LENGTH + i] = part end
  end
end

local function read_record(uuid)
  local text = texts[uuid]
  if text == nil then
    text = redis.call('HGET', TASKS, uuid)
    texts[uuid] = text
  end
  if not text then
    return nil
  end
  local record = { struct.unpack(COMMON_LAYOUT, text) }
  if record.format < OLDEST_FORMAT then
    error('This is no record of a task.')
  end
  -- What a higher number has behind is not written again.
  record.format = RECORD_FORMAT
  -- `struct` gives last where it has come to.
  local place = record[COMMON_LENGTH + 1]
  record[COMMON_LENGTH + 1] = nil
  if place <= #text then read_rare_parts(record, text, place) end
  return record
end

-- Changes a record, for the rest of this run; write_records() stores it.
local function write_record(uuid, record)
  local text, place = struct.pack(COMMON_LAYOUT, unpack(record, 1, COMMON_LENGTH)), #written
  if next(record, COMMON_LENGTH) then text = text .. struct.pack(RARE_LAYOUT, RARE_PARTS) end
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
