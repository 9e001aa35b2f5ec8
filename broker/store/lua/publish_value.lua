#!lua
-- Publishes a value in a namespace: stores it under a new version and rings for whoever watches. Not allow-oom: a full
-- store takes no more values.
--
-- KEYS[1]   the namespace's value
-- ARGV      1 namespace   2 value (JSON text)   3 the random part of its version   4 most namespaces
-- returns   {CHANGED, version}, or {FULL} when the namespace would be one too many
--
-- @include clock rfc3339 publication
local namespace, random = ARGV[1], ARGV[3]
local is_known = redis.call('ZSCORE', NAMESPACES, namespace)
if not is_known and redis.call('ZCARD', NAMESPACES) >= tonumber(ARGV[4]) then
  return { FULL }
end
local number = next_change(random)
-- Random, too: a store that has lost its last writes numbers them again, and no version may ever name two values.
local version = number .. '-' .. random
redis.call('HSET', KEYS[1], 'version', version, 'changed_at', rfc3339(now_ms()), 'value', ARGV[2])
redis.call('ZADD', NAMESPACES, number, namespace)
if not is_known then
  redis.call('ZREM', DELETED_NAMESPACES, namespace)
end
redis.call('PUBLISH', PUBLISHED_CHANNEL, namespace)
return { CHANGED, version }
