-- @include record
-- read_ahead(uuids): reads several records by one call.
local function read_ahead(uuids)
  if #uuids < 2 then
    return
  end
  local found = redis.call('HMGET', TASKS, unpack(uuids))
  for i = 1, #uuids do
    local uuid = uuids[i]
    -- What this run has changed is newer.
    if texts[uuid] == nil then texts[uuid] = found[i] end
  end
end
