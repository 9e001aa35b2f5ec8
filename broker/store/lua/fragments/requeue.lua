-- @include enqueue record changes
-- requeue(uuid, record, attempt, due): a running task becomes pending again, at once or at `due` (ms, or nil).
-- It keeps its place: priority and age are the record's.
local function requeue(uuid, record, attempt, due)
  leave_lease(uuid, record)
  record.state, record.attempt, record.due = 'pending', attempt, due
  record.lease, record.worker, record.started = '', '', 0
  write_record(uuid, record)
  make_ready(uuid, record)
end
