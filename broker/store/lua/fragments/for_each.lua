-- for_each(uuids, handle, drop): handle(uuid, place) for each. One that a damaged key makes fail harms no other: the server's
-- log says why, and drop(uuid), if it is given, takes it from where it would be found again and again. Whatever else a
-- command refuses, such as a right that is missing, is no task's fault, and ends the script.
local function for_each(uuids, handle, drop)
  local place = 0

  local function go_on()
    while place < #uuids do
      place = place + 1
      handle(uuids[place], place)
    end
  end

  local function pass_over(uuid, why)
    -- Redis' pcall gives a command's error as its text, which begins with its code.
    if string.find(why, '^[A-Z]+ ') and not string.find(why, '^WRONGTYPE ') then
      error(redis.error_reply(why))
    end
    redis.log(redis.LOG_WARNING, 'The task ' .. uuid .. ' is damaged and passed over: ' .. why)
    if drop then drop(uuid) end
  end

  while place < #uuids do
    local fine, why = pcall(go_on)
    if not fine then pass_over(uuids[place], type(why) == 'table' and why.err or tostring(why)) end
  end
end
