-- integer(n): a whole number as text. Redis writes a Lua number by %.17g, which takes three times as long as %d.
local function integer(n)
  return string.format('%d', n)
end
