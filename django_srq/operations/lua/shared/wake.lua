-- Who is told of a change: the idle consumers. Needs keys, call.
local WAKE_MOST = 64      -- tokens in wake; more would wake nobody else

-- Wakes up to n idle consumers, unless they would come in vain: the queue is paused, or its limits allow nothing now.
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

-- After n items left their holders: what max_in_flight held up can be taken.
local function freed(n)
  if facts.most then
    ring(n)
  end
end
