-- Needs begin.

-- Whether a result is not to be told any more. ended: its score in finished.
local function result_over(kept, ended)
  local ttl = string.match(kept, '^{"ttl":(%d+),')
  return not ttl or ended + ttl <= now
end
