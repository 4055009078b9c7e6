-- Iterates over uid and token of each item that the last claim in a slot took; known: what slots has of that slot, as
-- claim.lua keeps its outcome, or false.
local function taken_by(known)
  local taken = string.match(known or '', '^%d+ %d+ %S* %-?%d+ %d+( .+)$')
  return string.gmatch(taken or '', ' (%S+) (%S+)')
end
