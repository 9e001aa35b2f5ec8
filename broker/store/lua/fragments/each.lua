-- each(first, width, handle): one answer for each `width` arguments from ARGV[first] on, or one number where all of them
-- are this number: a list costs the server some 15,000 instructions, and 600 a number. A call that fails, which only a
-- damaged key can do, harms no other: its answer is {BROKEN, why}.
local function each(first, width, handle)
  local answers, last, common = {}, 0, nil
  for start = first, #ARGV, width do
    local fine, answer = pcall(handle, start)
    if not fine then
      answer = { BROKEN, type(answer) == 'table' and answer.err or tostring(answer) }
    end
    if last == 0 then
      common = answer
    elseif answer ~= common then
      common = nil
    end
    last = last + 1
    answers[last] = answer
  end
  return type(common) == 'number' and common or answers
end
