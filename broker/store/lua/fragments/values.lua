-- A short value is a field of the record. A longer one goes to the task's values key, and the record says `large`.
local INLINE_MAX_BYTES = 512

-- store_value(uuid, record, name, text): gives what the record's field of that name is to be; nil takes the value away.
local function store_value(uuid, record, name, text)
  if text and #text > INLINE_MAX_BYTES then
    redis.call('HSET', VALUES .. uuid, name, text)
    record.large = true
    return nil
  end
  if record.large then redis.call('HDEL', VALUES .. uuid, name) end
  return text
end

-- long_value(uuid, record, name): the text of a value that is no field of the record, or false when there is none.
local function long_value(uuid, record, name)
  return record.large == true and redis.call('HGET', VALUES .. uuid, name)
end
