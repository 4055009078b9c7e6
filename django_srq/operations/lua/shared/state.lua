-- Needs keys.

-- The state of an item that is in items, and the key with its deadline, due time or time of death; nil for a ready item.
local function state_of(uid)
  if redis.call('HEXISTS', holders, uid) == 1 then
    return 'in_flight', leases
  elseif redis.call('ZSCORE', delayed, uid) then
    return 'delayed', delayed
  elseif redis.call('ZSCORE', dead, uid) then
    return 'dead', dead
  end
  return 'ready', nil
end
