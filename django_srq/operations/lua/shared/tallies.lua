-- Writes the counts of this call. Needs keys, begin, series.
local counter, by = next(tallies)
if counter then
  local elapsed = now - (facts.minute or 0) * 60000
  if elapsed < 0 or elapsed >= 60000 then
    local minute = math.floor(now / 60000)
    -- include: periods
  end
  while counter do
    redis.call('HINCRBY', stats, counter, by)
    counter, by = next(tallies, counter)
  end
end
