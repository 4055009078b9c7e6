-- Uids on the list whose item is settled or elsewhere. Needs keys, call, removal, items.

-- A saferedisqueue consumer that fails an item puts its uid on the list; we hold it for that consumer.
local function failed_by_legacy(uid, holder)
  if string.sub(holder, 1, 7) ~= 'legacy/' then
    return false
  end
  end_delivery(uid, holder)
  unhold(uid)
  return true
end

-- Whether a uid that was just popped stands for no ready item; then whatever is left of it is dropped.
-- there: whether it has a payload; alone: whether it is known that nothing is delayed, dead, returned or in priority.
local function is_ghost(uid, there, from_list, alone)
  if not there then
    forget(uid)
    redis.call('HDEL', meta, 'purge:' .. uid)
    return true
  end
  local holder = redis.call('HGET', holders, uid)
  if holder then
    return not (from_list and failed_by_legacy(uid, holder))
  end
  return from_list and not alone and (redis.call('ZSCORE', delayed, uid) or redis.call('ZSCORE', dead, uid)
    or redis.call('ZSCORE', returned, uid) or redis.call('ZSCORE', priority, uid))
end

local function lay_ghost()
  if tonumber(redis.call('HGET', meta, 'ghosts') or 0) > 0 then
    redis.call('HINCRBY', meta, 'ghosts', -1)
  end
end
