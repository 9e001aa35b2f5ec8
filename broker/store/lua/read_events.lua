#!lua flags=no-writes
-- Reads a page of a task's events behind a place, with the task as it is at that moment.
--
-- KEYS[1]   the tasks' records
-- ARGV      1 uuid   2 most events   3 bytes after which the page ends
--           4 the number to go on behind ("" for the first that is kept)   5 when the task of that number was created, ms
-- returns   {FOUND, queue, seal, state, created ms, number of the newest event, "1" when the place is none of this task's
--           or its followers are no longer kept, number before the page's first event, task JSON or false, then the
--           events}, or {NOT_FOUND}. The task JSON comes with such a place, and with the last page of an ended task.
--
-- @include record task_json events
local uuid, most, most_bytes, after = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4] or '')
local record = read_record(uuid)
if not record then
  return { NOT_FOUND }
end
local newest = events_of(record)
local oldest = newest + 1 - (newest > 0 and redis.call('LLEN', EVENTS .. uuid) or 0)

local function is_lost()
  if not after then
    return false
  end
  -- An ended task has one event more: its end, which is not stored.
  local last = is_open(record) and newest or newest + 1
  return tonumber(ARGV[5]) ~= record.created or after + 1 < oldest or after > last
end

local page = { FOUND, record.queue, record.seal, record.state, record.created, newest, '', after or oldest - 1, false }
if is_lost() then
  page[7], page[8], page[9] = '1', newest, task_json(uuid, record)
  return page
end

local number, bytes, first = page[8], 0, #page
while number < newest and #page - first < most and bytes < most_bytes do
  -- A few at a time: one may be as long as a whole page.
  local index = number + 1 - oldest
  for _, value in ipairs(redis.call('LRANGE', EVENTS .. uuid, index, index + math.min(7, most - #page + first - 1))) do
    page[#page + 1] = value
    bytes = bytes + #value
    number = number + 1
  end
end
if number >= newest and not is_open(record) then
  page[9] = task_json(uuid, record)
end
return page
