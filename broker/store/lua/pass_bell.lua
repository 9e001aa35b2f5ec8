#!lua flags=allow-oom
-- A worker that has no place for more passes the doorbell on to a parked one.
--
-- KEYS[1]   the queue's tokens
-- ARGV      1 queue
-- returns   1
--
-- @include wake
wake_one(ARGV[1])
return 1
