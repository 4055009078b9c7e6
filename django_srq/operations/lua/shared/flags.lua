-- Calls act(…) for each item that ARGV names from an index on, with its values, two at most (width: how many there are).
-- act returns whether it did something. Returns per item a flag, 1 when it did, else 0; and the number of those.
local function flag_each(first, width, act)
  local flags, acted = {}, 0
  for i = first, #ARGV, width do
    local done = act(ARGV[i], ARGV[i + 1])
    flags[#flags + 1] = done and '1' or '0'
    acted = acted + (done and 1 or 0)
  end
  return table.concat(flags), acted
end
