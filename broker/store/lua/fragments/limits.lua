-- @include integer
-- A queue's limits: most tasks that run, and most that are started within a window of time. They are a field of one hash
-- for all queues: `most running:most in a window:window ms:as JSON`, empty where there is no such limit.
local function parse_limits(text)
  local running, starts, window = string.match(text, '^(%d*):(%d*):(%d*):')
  return { running = tonumber(running), starts = tonumber(starts), window = tonumber(window) }
end

-- What was started lately is a sorted set by time, an entry for each claim: `total so far:of these in this claim`. So
-- the tasks within a window are told by its first and its last entry, however many it has.
local function parse_starts(entry)
  local total, own = string.match(entry or '0:0', '(%d+):(%d+)')
  return tonumber(total), tonumber(own)
end

-- room_to_start(queue, limits, now): how many tasks may be started now, and the total so far.
local function room_to_start(queue, limits, now)
  redis.call('ZREMRANGEBYSCORE', STARTS .. queue, '-inf', integer(now - limits.window))
  local total = parse_starts(redis.call('ZRANGE', STARTS .. queue, -1, -1)[1])
  local first_total, first_own = parse_starts(redis.call('ZRANGE', STARTS .. queue, 0, 0)[1])
  return limits.starts - (total - first_total + first_own), total
end

local function note_starts(queue, limits, now, total, number)
  redis.call('ZADD', STARTS .. queue, integer(now), string.format('%016d:%d', total + number, number))
  redis.call('PEXPIRE', STARTS .. queue, limits.window)
end

-- ms_to_start(queue, limits, now): ms until some task may be started, where none may now.
local function ms_to_start(queue, limits, now)
  local first = redis.call('ZRANGE', STARTS .. queue, 0, 0, 'WITHSCORES')
  return first[2] and math.max(1, first[2] + limits.window - now) or 1
end
