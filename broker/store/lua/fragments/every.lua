-- every(words, first, step): words[first], words[first + step] …
local function every(words, first, step)
  local found, last = {}, 0
  for i = first, #words, step do
    last = last + 1
    found[last] = words[i]
  end
  return found
end
