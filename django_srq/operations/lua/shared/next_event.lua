-- Needs keys, begin.

-- The time (ms) until an item may become ready by itself; -1: none will.
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
  -- Idle consumers have to call more often than half a lease, as a longer silence counts as an outage. By themselves
  -- they claim every 5 s, which is too seldom for short leases, also of items that are claimed only after this call.
  local lease = facts.lease_c or 15000
  if deadline or lease < 15000 then
    sooner(now + lease / 3)
  end
  return wait
end
