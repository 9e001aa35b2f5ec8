-- The error of a task that a full queue has dropped.
local DROPPED = '{"code":"queue-full","message":"The queue was full, and this was the oldest of its lowest priority."}'
