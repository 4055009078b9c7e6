-- Ghosts: uids that are still on the list, while their items are settled or elsewhere.
-- Needs keys, begin, removal, lifecycle.

-- A saferedisqueue consumer that fails an item puts the uid on the list, while the item has a holder, legacy/….
local function failed_by_legacy(uid, holder)
  if string.sub(holder, 1, 7) ~= 'legacy/' then
    return false
  end
  end_delivery(uid, holder)
  unhold(uid)
  return true
end

-- Whether a uid that was taken off its key stands for no ready item. If it has no payload, all that is left of it is
-- dropped. there: whether it has a payload; from_list: whether it comes from the list; alone: whether it is known that
-- no item is delayed, dead, returned or in priority.
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

-- Counts one ghost less: its uid was taken off the list.
local function lay_ghost()
  if tonumber(redis.call('HGET', meta, 'ghosts') or 0) > 0 then
    redis.call('HINCRBY', meta, 'ghosts', -1)
  end
end
