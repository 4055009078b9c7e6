-- How many deliveries ended with RetryLater. Needs keys, begin, series_sizes.
-- The counts of periods are in rings of their own in stats, pm<i> and ph<i>, each "number count". The entries of the
-- rings of series.lua must not get longer: processes of older versions write and read them, too.
local function count_in(ring_name, ms, most, by)
  local number = string.format('%.0f', math.floor(now / ms))
  local field = ring_name .. string.format('%.0f', number % most)
  local period, before = string.match(redis.call('HGET', stats, field) or '', '^(%d+) (%d+)$')
  redis.call('HSET', stats, field, number .. ' ' .. (period == number and before + by or by))
end

local function count_postponed(by)
  count('postponed', by)
  count_in('pm', 60000, MINUTES, by)
  count_in('ph', 3600000, HOURS, by)
end
