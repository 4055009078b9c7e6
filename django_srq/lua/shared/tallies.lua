-- Writes down what this call counted. Needs keys, call, series.
if next(tallies) then
  local minute = math.floor(now / 60000)
  if facts.minute ~= minute then
    -- include: periods
  end
  for counter, by in pairs(tallies) do
    redis.call('HINCRBY', stats, counter, by)
  end
end
