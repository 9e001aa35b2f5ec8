-- register(uuid, record, fields): stores a new task and puts it into the indexes of all and of open tasks.
local function register(uuid, record, fields)
  redis.call('HSET', TASK .. uuid, unpack(fields))
  redis.call('ZADD', EXPIRING, record.expires, uuid)
  redis.call('ZADD', CREATED_INDEX, record.seq, uuid)
end
