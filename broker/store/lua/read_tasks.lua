#!lua flags=no-writes
-- Reads several tasks as one consistent picture, as far as their JSON fits into so many bytes.
--
-- KEYS[1]   the tasks' records
-- ARGV      1 most bytes of task JSON   then uuids
-- returns   for each: {FOUND, queue, seal, state, task JSON or false where it does not fit any more}, {NOT_FOUND} or
--           {BROKEN, reason}
--
-- @include record read_ahead every task_json each
local left = tonumber(ARGV[1])

local function read(place)
  local uuid = ARGV[place]
  local record = read_record(uuid)
  if not record then
    return { NOT_FOUND }
  end
  local document = left > 0 and task_json(uuid, record)
  if document then
    left = left - #document
  end
  return { FOUND, record.queue, record.seal, record.state, left >= 0 and document }
end

read_ahead(every(ARGV, 2, 1))
return each(2, 1, read)
