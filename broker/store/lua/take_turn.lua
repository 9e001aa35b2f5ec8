#!lua flags=allow-oom
-- One process sweeps at a time. A script, since a plain SET is refused by a full server, and a full one must drain.
--
-- KEYS[1]   the turn
-- ARGV      1 who asks   2 turn ms
-- returns   1 when the turn is theirs, else 0
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return 1
end
return 0
