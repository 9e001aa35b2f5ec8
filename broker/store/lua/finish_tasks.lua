#!lua flags=allow-oom
-- Ends tasks, each by its lease holder or by a third party; the first writer wins, for ever.
--
-- KEYS[1]   the index of all tasks
-- ARGV      for each task: 1 uuid   2 how it ends, one text, since an argument more costs the client and the server some
--           2,500 instructions: terminal state, "1" when a change should return the task JSON, result (JSON text, "" for
--           none) and error (the same), each with a zero byte at its end, and the lease ("" for a third party). This is the
--           rest, since it alone may hold any byte
-- returns   for each task: CHANGED, or {CHANGED, task JSON} where that is asked for, {FINAL, state, task JSON} when it has
--           ended already (the caller compares outcomes: Lua would change numbers), {LEASE_LOST}, {NOT_FOUND} or
--           {BROKEN, reason}
--
-- @include clock record read_ahead every settle each changes
local now = now_ms()

local function finish(start)
  local uuid = ARGV[start]
  local state, wants_document, result, error_text, place = struct.unpack('ssss', ARGV[start + 1])
  local lease = string.sub(ARGV[start + 1], place)
  local record = read_record(uuid)
  if not record then
    return { NOT_FOUND }
  end
  if not is_open(record) or expire_if_over(uuid, record, now) then
    return { FINAL, record.state, task_json(uuid, record) }
  end
  if lease ~= '' and record.lease ~= lease then
    return { LEASE_LOST }
  end
  settle(uuid, record, now, state, result, error_text, lease ~= '')
  return wants_document == '1' and { CHANGED, task_json(uuid, record) } or CHANGED
end

read_ahead(every(ARGV, 1, 2))
local answers = each(1, 2, finish)
write_changes()
return answers
