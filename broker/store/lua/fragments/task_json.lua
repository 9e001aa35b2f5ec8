-- @include rfc3339
-- The only renderer of a task as JSON. Values are finished JSON text and are put in as they are; no other part can
-- hold a character that JSON would escape.
--
-- task_members(uuid, record, values, omitted): the members of the object without its braces. `values` has result,
-- error and progress as text or false; with `omitted`, the values stay out and the reader is told so.
local function task_members(uuid, record, values, omitted)
  local parts = { '"uuid":"', uuid, '","queue":"', record.queue, '","state":"', record.state, '"' }
  local function add(...)
    for _, part in ipairs({ ... }) do
      parts[#parts + 1] = part
    end
  end
  if omitted then
    add(',"omitted":true')
  else
    if values.result then add(',"result":', values.result) end
    if values.error then add(',"error":', values.error) end
    if values.progress then add(',"progress":', values.progress) end
  end
  add(',"attempt":', record.attempt, ',"created_at":"', rfc3339(record.created), '"')
  if record.started then add(',"started_at":"', rfc3339(record.started), '"') end
  if record.finished then add(',"finished_at":"', rfc3339(record.finished), '"') end
  add(',"expires_at":"', rfc3339(record.expires), '"')
  if record.retry_of then add(',"retry_of":"', record.retry_of, '"') end
  return table.concat(parts)
end

-- task_json(uuid, record): the task as it is stored now.
local function task_json(uuid, record)
  local stored = redis.call('HMGET', VALUES .. uuid, 'result', 'error', 'progress')
  return '{' .. task_members(uuid, record, { result = stored[1], error = stored[2], progress = stored[3] }) .. '}'
end
