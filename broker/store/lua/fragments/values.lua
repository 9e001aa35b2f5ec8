-- A value of up to 64 bytes is a field of the record, which stays a listpack with it, and the task needs no second key.
-- A longer one goes to the task's values key, and the record says `large`.
local INLINE_MAX_BYTES = 64

-- add_value(fields, uuid, name, text): for a value that is written once. Adds it to the fields of the HSET that
-- follows, or stores it apart.
local function add_value(fields, uuid, name, text)
  if #text <= INLINE_MAX_BYTES then
    fields[#fields + 1] = name
    fields[#fields + 1] = text
  else
    redis.call('HSET', VALUES .. uuid, name, text)
    fields[#fields + 1] = 'large'
    fields[#fields + 1] = 1
  end
end

-- replace_value(uuid, name, text): for a value that may be written again, in either length.
local function replace_value(uuid, name, text)
  local fields = {}
  add_value(fields, uuid, name, text)
  if fields[1] == 'large' then
    redis.call('HDEL', TASK .. uuid, name)
  end
  redis.call('HSET', TASK .. uuid, unpack(fields))
end

-- read_value(uuid, record, name): its text, or nil or false when there is none.
local function read_value(uuid, record, name)
  return record[name] or (record.large and redis.call('HGET', VALUES .. uuid, name))
end
