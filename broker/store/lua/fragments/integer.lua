-- integer(n): a whole number as text. Lua writes one by %.14g and Redis by %.17g, which takes three times as long as %d;
-- and neighbours in one call share most of their times.
local integers = {}

local function integer(n)
  local text = integers[n]
  if not text then
    text = string.format('%d', n)
    integers[n] = text
  end
  return text
end
