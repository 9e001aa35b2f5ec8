-- A short value is a part of the record. A longer one goes to the task's values key, and the record says `large`.
local INLINE_MAX_BYTES = 512

-- drop_value(uuid, record, name): takes a value away. Gives nil, what the record's part of that name is to be.
local function drop_value(uuid, record, name)
  if record.large then redis.call('HDEL', VALUES .. uuid, name) end
end

-- store_value(uuid, record, name, text): gives what the record's part of that name is to be.
local function store_value(uuid, record, name, text)
  if #text > INLINE_MAX_BYTES then
    redis.call('HSET', VALUES .. uuid, name, text)
    record.large = 1
    return ''
  end
  drop_value(uuid, record, name)
  return text
end

-- load_value(uuid, record, name, part): the text of a value, of which the record has this part; '' when there is none.
local function load_value(uuid, record, name, part)
  if part and part ~= '' then
    return part
  end
  return record.large and redis.call('HGET', VALUES .. uuid, name) or ''
end
