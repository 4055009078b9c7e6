-- Needs series_sizes.

-- The names of these counters, followed by those of the buckets.
local function with_buckets(counters)
  for _, kind in ipairs({'wait', 'run'}) do
    for e = 0, BUCKETS - 1 do
      counters[#counters + 1] = kind .. e
    end
  end
  return counters
end
