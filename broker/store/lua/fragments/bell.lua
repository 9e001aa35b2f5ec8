-- @include integer
-- ring(queue, uuid, attempt): the doorbell of a task that is claimable now.
local function ring(queue, uuid, attempt)
  redis.call('PUBLISH', queue .. REQUEST .. uuid,
    '{"uuid":"' .. uuid .. '","queue":"' .. queue .. '","attempt":' .. integer(attempt) .. '}')
end
