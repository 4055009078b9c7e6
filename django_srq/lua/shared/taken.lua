-- What a claim took, by its slot. Needs keys.
-- Iterates over uid and token of each item that the last claim in a slot took, as claim.lua keeps its outcome.
local function taken_in(slot)
  local taken = string.match(redis.call('HGET', slots, slot) or '', '^%d+ %d+ %S* %-?%d+ %d+( .+)$')
  return string.gmatch(taken or '', ' (%S+) (%S+)')
end
