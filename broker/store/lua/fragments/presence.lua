-- @include integer
-- Who is there for a queue: a sorted set of processes, scored `seconds until which it counts·2^20 + number`, so that the
-- dead are those of the lowest scores. The number is what the process reports: 1 for a worker, or the calls that it holds.
local NUMBERS = 1048576

-- set_present(key, process, number, until_ms): number 0 takes the process out.
local function set_present(key, process, number, until_ms)
  if number == 0 then
    redis.call('ZREM', key, process)
  else
    redis.call('ZADD', key, integer(math.ceil(until_ms / 1000) * NUMBERS + math.min(number, NUMBERS - 1)), process)
  end
end

-- drop_absent(key, now): takes those out that have not reported in time.
local function drop_absent(key, now)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. integer(math.floor(now / 1000) * NUMBERS))
end

-- sum_present(key, now): the sum of the numbers of all processes that are there.
local function sum_present(key, now)
  local scores = redis.call('ZRANGEBYSCORE', key, integer(math.floor(now / 1000) * NUMBERS), '+inf', 'WITHSCORES')
  local sum = 0
  for i = 2, #scores, 2 do
    sum = sum + scores[i] % NUMBERS
  end
  return sum
end
