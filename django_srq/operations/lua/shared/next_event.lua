-- Needs keys, call.

-- The time (ms) until something becomes ready by itself; -1: nothing will.
local function next_event()
  local wait = -1
  local function sooner(at)
    local ms = math.max(10, math.ceil(at - now))
    wait = wait < 0 and ms or math.min(wait, ms)
  end
  local due = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
  if due then
    sooner(tonumber(due))
  end
  local deadline = redis.call('ZRANGE', leases, 0, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')[2]
  if deadline then
    sooner(tonumber(deadline))
  end
  -- Idle consumers must be heard more often than the silence that means an outage: they come every 5 s by themselves, which
  -- is not enough for short leases, also of what is claimed only after they asked.
  local lease = facts.lease_c or 15000
  if deadline or lease < 15000 then
    sooner(now + lease / 3)
  end
  return wait
end
