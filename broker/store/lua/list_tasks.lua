#!lua flags=no-writes
-- A page of tasks, newest created first. What it looks at and returns is bounded, so a page may be short.
--
-- KEYS[1]   all tasks by creation
-- ARGV      1 the place to go on below ("+inf" for the newest)   2 most tasks   3 most records to look at
--           4 bytes after which the page ends   5 queue ("" for any)   6 state ("" for any)
-- returns   {place to go on below or false at the end, records looked at, then uuid, state, task JSON for each}
--
-- @include record every for_each task_json
local most, most_looks, most_bytes = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local queue, state = ARGV[5] or '', ARGV[6] or ''
local wanted = (queue == '' and state == '') and math.min(most, most_looks) or most_looks
local below = ARGV[1] == '+inf' and ARGV[1] or '(' .. ARGV[1]
local places = redis.call('ZREVRANGEBYSCORE', KEYS[1], below, '-inf', 'WITHSCORES', 'LIMIT', 0, wanted)
local page, bytes, looked = { false, 0 }, 0, 0

local function is_wanted(record)
  return record and (queue == '' or record.queue == queue) and (state == '' or record.state == state)
end

local function add(uuid, record)
  local document = task_json(uuid, record)
  bytes = bytes + #document
  page[#page + 1] = uuid
  page[#page + 1] = record.state
  page[#page + 1] = document
end

local function is_full()
  return #page >= 2 + 3 * most or bytes >= most_bytes
end

for_each(every(places, 1, 2), function(uuid)
  if not is_full() then
    looked = looked + 1
    local record = read_record(uuid)
    if is_wanted(record) then
      add(uuid, record)
    end
  end
end)
if looked == wanted or looked < #places / 2 then
  page[1] = places[2 * looked]
end
page[2] = looked
return page
