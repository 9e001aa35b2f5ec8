-- each(first, width, handle): one answer for each `width` arguments from ARGV[first] on. One that fails, which only a
-- damaged key can do, harms no other: its answer is {BROKEN, why}.
local function each(first, width, handle)
  local answers = {}
  for start = first, #ARGV, width do
    local fine, answer = pcall(handle, start)
    if not fine then
      answer = { BROKEN, type(answer) == 'table' and answer.err or tostring(answer) }
    end
    answers[#answers + 1] = answer
  end
  return answers
end
