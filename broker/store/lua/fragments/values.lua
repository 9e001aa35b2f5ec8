-- A short value is a field of the record. A longer one goes to the task's values key, and the record says `large`.
local INLINE_MAX_BYTES = 512

-- set_value(uuid, record, name, text): for the record that is written next; nil takes the value away.
local function set_value(uuid, record, name, text)
  if text and #text > INLINE_MAX_BYTES then
    redis.call('HSET', VALUES .. uuid, name, text)
    record[name], record.large = nil, true
  else
    if record.large then redis.call('HDEL', VALUES .. uuid, name) end
    record[name] = text
  end
end

-- read_value(uuid, record, name): its text, or nil or false when there is none.
local function read_value(uuid, record, name)
  return record[name] or (record.large and redis.call('HGET', VALUES .. uuid, name))
end
