-- @include integer
-- append_event(uuid, record, value, report, most, most_bytes): one more value of a task's stream, announced to whoever
-- listens. The oldest go where there are more than `most`, or more bytes than `most_bytes`; the newest always stays.
--
-- report: names this very call, so that a repetition adds nothing. The last few are known, as many as one connection is
-- likely to have on its way for one task.
local EVENT_BYTES = 8 -- what an event costs beside its value, about
local EVENT_MESSAGE_MAX_BYTES = 1024
local REPORTS_MAX_BYTES = 56 -- seven reports of eight bytes; a longer field would cost the record its listpack
local MOST_DROPPED_EVENTS = 1000 -- lowered limits are reached over several calls

local function is_reported(record, report)
  return record.reports and string.find(record.reports, report, 1, true)
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
  if is_reported(record, report) then
    return
  end
  local number = integer((record.events or 0) + 1)
  local bytes = (record.event_bytes or 0) + EVENT_BYTES + #value
  bytes = drop_events(uuid, redis.call('RPUSH', EVENTS .. uuid, value), bytes, most, most_bytes)
  redis.call('HSET', TASK .. uuid, 'events', number, 'event_bytes', integer(bytes), 'reports',
    string.sub(report .. (record.reports or ''), 1, REPORTS_MAX_BYTES))
  announce_event(uuid, record, number, value)
end
