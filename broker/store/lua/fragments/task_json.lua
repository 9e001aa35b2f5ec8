-- @include rfc3339 integer values
-- The only renderer of a task as JSON. Values are finished JSON text and are put in as they are; no other part can
-- hold a character that JSON would escape.
--
-- render_task(opening, uuid, record, values): the object. `opening` is its brace and whatever comes before its own
-- members; `values` are finished members with a leading comma, as `value_members` makes them.
local function render_task(opening, uuid, record, values)
  local started, finished, retry_of = record.started, record.finished, record.retry_of
  return opening .. '"uuid":"' .. uuid .. '","queue":"' .. record.queue .. '","state":"' .. record.state .. '"' .. values
    .. ',"attempt":' .. integer(record.attempt) .. ',"created_at":"' .. rfc3339(record.created)
    .. (started > 0 and '","started_at":"' or '') .. (started > 0 and rfc3339(started) or '')
    .. (finished > 0 and '","finished_at":"' or '') .. (finished > 0 and rfc3339(finished) or '')
    .. '","expires_at":"' .. rfc3339(record.expires)
    .. (retry_of and '","retry_of":"' .. retry_of .. '"}' or '"}')
end

-- value_members(result, error, progress): each JSON text, or '' when there is none.
local function value_members(result, error_text, progress)
  return (result ~= '' and ',"result":' .. result or '') .. (error_text ~= '' and ',"error":' .. error_text or '')
    .. (progress ~= '' and ',"progress":' .. progress or '')
end

-- task_json(uuid, record): the task as it is stored now.
local function task_json(uuid, record)
  local values = value_members(load_value(uuid, record, 'result', record.result),
    load_value(uuid, record, 'error', record.error), load_value(uuid, record, 'progress', record.progress))
  return render_task('{', uuid, record, values)
end
