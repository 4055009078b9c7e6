-- Needs begin.

-- Whether it is time for housekeeping.
local function is_due()
  return now >= (facts.kept or 0) + 1000 or now < facts.kept
end
