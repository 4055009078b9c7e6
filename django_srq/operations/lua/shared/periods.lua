-- The periods of the time series: see series. Needs keys, begin, series_sizes.
-- include: buckets
local COUNTED = 5   -- counters of a period, before the buckets

-- The values of the counters and buckets from which periods are made.
local function totals_of_stats()
  local counters = with_buckets({'put', 'acked', 'failed', 'recovered', 'dead'})
  local totals = redis.call('HMGET', stats, unpack(counters))
  for i = 1, #counters do
    totals[i] = totals[i] or '0'
  end
  return totals
end

local function sum(grown, before)
  local total = 0
  for e = 1, BUCKETS do
    total = total + grown[before + e]
  end
  return total
end

-- The time (ms) below which a share of the items stayed; grown has the growth of the buckets behind position before.
local function quantile(grown, before, share)
  local rank = share * sum(grown, before)
  if rank == 0 then
    return -1
  end
  for e = 1, BUCKETS do
    local n = grown[before + e]
    if n > 0 and rank <= n then
      local high = 2 ^ (e - 1)
      local low = e == 1 and 0 or high / 2
      return string.format('%.0f', low + (high - low) * rank / n)
    end
    rank = rank - n
  end
end

-- A period as its ring stores it, and its number. began: the number of the period, and the totals when it began.
local function period_until(totals, began)
  local grown, number = {}, nil
  for value in string.gmatch(began, '%d+') do
    if number then
      grown[#grown + 1] = math.max(0, totals[#grown + 1] - value)
    else
      number = tonumber(value)
    end
  end
  local waits, runs = COUNTED, COUNTED + BUCKETS
  grown[2] = grown[2] + sum(grown, runs)
  return table.concat({
    string.format('%.0f', number), table.concat(grown, ' ', 1, COUNTED),
    quantile(grown, waits, 0.5), quantile(grown, waits, 0.95), quantile(grown, runs, 0.5), quantile(grown, runs, 0.95),
  }, ' '), number
end

-- Closes the running period of one length, if there is any, and begins another.
local function begin_period(name, ring_name, ms, most, totals)
  local began = redis.call('HGET', stats, name)
  if began then
    local period, number = period_until(totals, began)
    redis.call('HSET', stats, ring_name .. string.format('%.0f', number % most), period)
  end
  redis.call('HSET', stats, name, string.format('%.0f', math.floor(now / ms)) .. ' ' .. table.concat(totals, ' '))
end

-- Closes the minute, and the hour if it is over. minute: the number of the new one.
local function close_periods(minute)
  local totals = totals_of_stats()
  begin_period('minute', 'm', 60000, MINUTES, totals)
  if not facts.minute or math.floor(facts.minute / 60) ~= math.floor(minute / 60) then
    begin_period('hour', 'h', 3600000, HOURS, totals)
  end
  redis.call('HSET', meta, 'minute', string.format('%.0f', minute))
end
