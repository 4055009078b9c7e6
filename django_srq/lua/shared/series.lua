-- What the calls count, and the time series behind the charts: all in stats, bounded by its rings. Needs keys, and now and
-- facts of call.
--   wait<e>, run<e>  how many items waited for their first delivery, or were in hand until acked, for less than 2^e ms and
--                    not less than half of that. They are not counted in delivered, or acked, once more.
--   minute, hour     the number of the running one since the epoch, and what the counters were when it began
--   m<i>, h<i>       rings of the last 180 minutes and 336 hours in which anything was counted: the number; by how much put,
--                    acked, failed, recovered and dead grew; median and 95 % (ms; -1: none) of wait and of run
-- A period is closed by the first count in a later one: nothing happened in between.
local BUCKETS = 32   -- the last one is for all beyond 2^30 ms, 12 days
local tallies = {}   -- counter -> by how much this call adds to it

local function count(counter, by)
  tallies[counter] = (tallies[counter] or 0) + (by or 1)
end

-- Counts an item that waited, or was in hand, for so long (ms); kind: wait or run.
local function count_time(kind, ms)
  local _, e = math.frexp(math.max(0, ms))
  count(kind .. math.min(e, BUCKETS - 1))
end

-- Closes the minute, and the hour, that are over. All in one function: a script makes its functions anew at each call.
local function close_periods(minute)
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

  -- The time (ms) that a share of the items stayed below, by the growth of the buckets after the position "before".
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
end

-- Writes down what this call counted.
local function keep_tallies()
  if next(tallies) then
    local minute = math.floor(now / 60000)
    if facts.minute ~= minute then
      close_periods(minute)
    end
    for counter, by in pairs(tallies) do
      redis.call('HINCRBY', stats, counter, by)
    end
  end
end
