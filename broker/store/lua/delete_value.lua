#!lua flags=allow-oom
-- Deletes a namespace, which then is as if it had never been published, and rings for whoever watches it.
--
-- KEYS[1]   the namespace's value
-- ARGV      1 namespace   2 random text for the epoch
-- returns   {CHANGED}, or {NOT_FOUND} when there is nothing
--
-- @include publication
local DELETIONS_KEPT = 1000

if redis.call('UNLINK', KEYS[1]) == 0 then
  return { NOT_FOUND }
end
redis.call('ZREM', NAMESPACES, ARGV[1])
redis.call('ZADD', DELETED_NAMESPACES, next_change(ARGV[2]), ARGV[1])
if redis.call('ZCARD', DELETED_NAMESPACES) > DELETIONS_KEPT then
  -- Whoever knows less than this number has to look at everything.
  redis.call('HSET', PUBLICATIONS, 'forgotten', redis.call('ZPOPMIN', DELETED_NAMESPACES)[2])
end
redis.call('PUBLISH', PUBLISHED_CHANNEL, ARGV[1])
return { CHANGED }
