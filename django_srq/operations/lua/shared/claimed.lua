-- Iterates over uid and token of each item that the last claim in a slot took. known: the entry of the slot in slots,
-- with the outcome that claim.lua stored, or false.
local function taken_by(known)
  local taken = string.match(known or '', '^%d+ %d+ %S* %-?%d+ %d+( .+)$')
  return string.gmatch(taken or '', ' (%S+) (%S+)')
end
