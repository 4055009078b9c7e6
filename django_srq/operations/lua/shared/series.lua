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
  local _, e = math.frexp(ms > 0 and ms or 0)
  count(kind .. (e < BUCKETS and e or BUCKETS - 1))
end
