-- Closes the minute, and the hour, if they are over. Needs keys, begin, series, and minute, the number of the new one.
local counters = {'put', 'acked', 'failed', 'recovered', 'dead'}
local counted = #counters
for _, kind in ipairs({'wait', 'run'}) do
  for e = 0, BUCKETS - 1 do
    counters[#counters + 1] = kind .. e
  end
end
local totals = redis.call('HMGET', stats, unpack(counters))
for i = 1, #counters do
  totals[i] = totals[i] or '0'
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

local function close(name, ring, ms, most)
  local began = redis.call('HGET', stats, name)
  if began then
    local grown, number = {}, nil
    for value in string.gmatch(began, '%d+') do
      if number then
        grown[#grown + 1] = math.max(0, totals[#grown + 1] - value)
      else
        number = tonumber(value)
      end
    end
    local wait, run = counted, counted + BUCKETS
    grown[2] = grown[2] + sum(grown, run)
    redis.call('HSET', stats, ring .. string.format('%.0f', number % most), table.concat({
      string.format('%.0f', number), table.concat(grown, ' ', 1, counted),
      quantile(grown, wait, 0.5), quantile(grown, wait, 0.95), quantile(grown, run, 0.5), quantile(grown, run, 0.95),
    }, ' '))
  end
  local number = string.format('%.0f', math.floor(now / ms))
  redis.call('HSET', stats, name, number .. ' ' .. table.concat(totals, ' '))
end

close('minute', 'm', 60000, 180)
if not facts.minute or math.floor(facts.minute / 60) ~= math.floor(minute / 60) then
  close('hour', 'h', 3600000, 336)
end
redis.call('HSET', meta, 'minute', string.format('%.0f', minute))
