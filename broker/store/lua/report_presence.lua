#!lua flags=allow-oom
-- A process says for which queues it is there, and with what number: its workers or the calls it holds.
--
-- KEYS[1]   the known queues
-- ARGV      1 process   2 ms for which the report counts   3 "1" for a worker, "" for held calls
--           then, a queue each: queue, number (0: no longer there)
-- returns   how many queues were reported
--
-- @include clock queue presence
local process, now, prefix = ARGV[1], now_ms(), ARGV[3] == '1' and WORKERS or WAITERS

for i = 4, #ARGV, 2 do
  local queue, number = ARGV[i], tonumber(ARGV[i + 1])
  local key = prefix .. queue
  drop_absent(key, now)
  set_present(key, process, number, now + ARGV[2])
  if number > 0 then
    -- Nothing is left of the last one that died.
    redis.call('PEXPIRE', key, 2 * ARGV[2])
    note_queue(queue, redis.call('HGET', QUEUE .. queue, 'seen'), now)
  end
end
return (#ARGV - 3) / 2
