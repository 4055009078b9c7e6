-- What a change is told to: the counters, and the idle consumers. Needs keys, call.
local WAKE_MOST = 64      -- tokens in wake; more would wake nobody else

local function count(counter, by)
  redis.call('HINCRBY', stats, counter, by or 1)
end

-- Wakes up to n idle consumers; a paused queue has nothing for them.
local function ring(n)
  local room = n > 0 and WAKE_MOST - redis.call('LLEN', wake) or 0
  if room > 0 and redis.call('EXISTS', paused) == 0 then
    for _ = 1, math.min(n, room) do
      redis.call('RPUSH', wake, 1)
    end
  end
end
