-- @include integer
-- append_event(uuid, record, value, report, most, most_bytes): one more value of a task's stream, for the record that is
-- written next, announced to whoever listens. The oldest go where there are more than `most`, or more bytes than
-- `most_bytes`; the newest always stays.
--
-- The record's `events` is text: how many there were, the bytes that are kept, and the last reports. A report names its
-- very call, so that a repetition adds nothing: as many are known as one connection is likely to have on its way for one
-- task.
local EVENT_BYTES = 8 -- what an event costs beside its value, about
local EVENT_MESSAGE_MAX_BYTES = 1024
local REPORTS_MAX_BYTES = 56 -- seven reports of eight bytes
local MOST_DROPPED_EVENTS = 1000 -- lowered limits are reached over several calls

-- events_of(record): how many there were, the bytes that are kept, and the last reports.
local function events_of(record)
  if not record.events then
    return 0, 0, ''
  end
  local number, bytes, reports = string.match(record.events, '^(%d+) (%d+) (.*)$')
  return tonumber(number), tonumber(bytes), reports
end

local function drop_events(uuid, kept, bytes, most, most_bytes)
  local dropped = 0
  while kept - dropped > 1 and dropped < MOST_DROPPED_EVENTS and (kept - dropped > most or bytes > most_bytes) do
    bytes = bytes - EVENT_BYTES - #redis.call('LPOP', EVENTS .. uuid)
    dropped = dropped + 1
  end
  return bytes
end

local function announce_event(uuid, record, number, value)
  local message = record.seal .. ' ' .. number
  if #message + #value < EVENT_MESSAGE_MAX_BYTES then
    message = message .. ' ' .. value
  end
  -- Of the characters of a uuid, the hyphen could make the channel look like one of a task's own.
  redis.call('PUBLISH', EVENTS_CHANNEL .. (string.gsub(uuid, '%-', '.')), message)
end

local function append_event(uuid, record, value, report, most, most_bytes)
  local told, bytes, reports = events_of(record)
  if string.find(reports, report, 1, true) then
    return
  end
  local number = integer(told + 1)
  local kept = redis.call('RPUSH', EVENTS .. uuid, value)
  bytes = integer(drop_events(uuid, kept, bytes + EVENT_BYTES + #value, most, most_bytes))
  record.events = number .. ' ' .. bytes .. ' ' .. string.sub(report .. reports, 1, REPORTS_MAX_BYTES)
  announce_event(uuid, record, number, value)
end
