-- Wakes idle consumers when items became ready. Needs keys, begin.
local WAKE_MOST = 64      -- tokens in wake at most; more would wake nobody else

-- Wakes up to n idle consumers, but not when they would get nothing: the queue is paused, or its limits allow nothing.
local function ring(n)
  if n > 0 and facts.most then
    n = math.min(n, facts.most - redis.call('HLEN', holders))
  end
  local room = n > 0 and (facts.told or 0) <= now and WAKE_MOST - redis.call('LLEN', wake) or 0
  if room > 0 and redis.call('EXISTS', paused) == 0 then
    local tokens = {}
    for i = 1, math.min(n, room) do
      tokens[i] = '1'
    end
    redis.call('RPUSH', wake, unpack(tokens))
  end
end

-- After n items lost their holders: wakes consumers for items that max_in_flight held up.
local function freed(n)
  if facts.most then
    ring(n)
  end
end
