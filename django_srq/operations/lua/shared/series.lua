-- The counters of the calls, and the time series behind the charts: all in stats, in rings of a fixed size. Needs keys,
-- begin.
--   wait<e>, run<e>  how many items waited for their first delivery, or were in hand until their ack, for less than 2^e
--                    ms and not less than half of that; "delivered" and "acked" do not count these items as well
--   wait_ms, run_ms  the sum of these times (ms)
--   minute, hour     the number of the running period since the epoch, and the values of the counters when it began
--   m<i>, h<i>       rings of the last MINUTES minutes and HOURS hours in which anything was counted: the number of the
--                    period; the growth of put, acked, failed, recovered and dead; median and 95th percentile (ms; -1:
--                    none) of wait and of run
-- The first count in a later period closes the one before: nothing was counted in between.
-- include: series_sizes

-- Counts something that this call does. tallies: counter -> by how much this call adds to it.
local function count(counter, by)
  tallies[counter] = (tallies[counter] or 0) + (by or 1)
end

-- Counts an item that waited, or was in hand, for so long (ms); kind: wait or run.
local function count_time(kind, ms)
  ms = ms > 0 and math.floor(ms) or 0
  local _, e = math.frexp(ms)
  count(kind .. (e < BUCKETS and e or BUCKETS - 1))
  if ms > 0 then
    count(kind .. '_ms', ms)
  end
end

-- Writes the counts of this call, and its outcome, so that a repeat of it gets the same answer. The time is written in
-- whole seconds, by the digits that TIME replied: to format a number takes longer, and no reader needs milliseconds.
local function finish(outcome)
  local counter, by = next(tallies)
  if counter then
    local elapsed = now - (facts.minute or 0) * 60000
    if elapsed < 0 or elapsed >= 60000 then
      -- include: periods
      close_periods(math.floor(now / 60000))
    end
    while counter do
      redis.call('HINCRBY', stats, counter, by)
      counter, by = next(tallies, counter)
    end
  end
  redis.call('HSET', slots, ARGV[1], ARGV[2] .. ' ' .. seconds .. '000 ' .. outcome)
  return outcome
end
