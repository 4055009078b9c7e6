-- Takes items out of the keys that have them. Needs keys, begin, records.
local GROUPS_MOST = 200   -- groups in one hash; items of more errors are counted as "other"

-- Counts an item into the group of its error (by 1) or out of it (by -1); returns the group that took it. The group
-- keeps the uid of the last item that it took, as an example. hash: deadgroups or retrygroups.
local function group(hash, name, by, uid)
  local entry = redis.call('HGET', hash, name)
  if not entry and by > 0 and name ~= 'other' and redis.call('HLEN', hash) >= GROUPS_MOST then
    return group(hash, 'other', by, uid)
  end
  local number, first = string.match(entry or '0 ' .. now .. ' ' .. now, '^(%d+) (%d+)')
  number = number + by
  if number > 0 then
    local last = by > 0 and now .. ' ' .. uid or string.match(entry, '^%d+ %d+ (.*)$')
    redis.call('HSET', hash, name, number .. ' ' .. first .. ' ' .. last)
  else
    redis.call('HDEL', hash, name)
  end
  return name
end

-- Takes a uid out of dead and out of its group's count; returns whether it was there.
local function exhume(uid)
  if redis.call('ZREM', dead, uid) == 0 then
    return false
  end
  local failure = last_error(uid)
  if failure then
    group(deadgroups, failure.group or 'other', -1)
  end
  return true
end

-- Takes an item out of retrying and out of its group's count, if it is there. Processes of older versions do not know
-- retrying, and leave uids there of items that are not delayed any more.
local function stop_retrying(uid)
  local name = redis.call('HGET', retrying, uid)
  if name then
    redis.call('HDEL', retrying, uid)
    group(retrygroups, name, -1)
  end
end

-- Takes a uid out of delayed; returns whether it was there.
local function undelay(uid)
  stop_retrying(uid)
  return redis.call('ZREM', delayed, uid) == 1
end

-- Ends the hold on an item and its lease; returns 1 when somebody held it, else 0.
local function unhold(uid)
  redis.call('ZREM', leases, uid)
  return redis.call('HDEL', holders, uid)
end

-- Takes a uid out of the zset that has it; false when none has. To search the list would take too long: there the uid
-- stays as a ghost, which a claim drops when it meets it.
local function unlist(uid)
  local listed = redis.call('ZREM', returned, uid) + redis.call('ZREM', priority, uid) > 0
  return undelay(uid) or listed or exhume(uid)
end

local function delete_records(uid)
  redis.call('HDEL', deliveries, uid)
  redis.call('HDEL', crashes, uid)
  redis.call('HDEL', errors, uid)
  redis.call('HDEL', headers, uid)
  stop_retrying(uid)
end

local function forget_records(uid)
  if has_records() then
    delete_records(uid)
  end
end

-- Drops all that is left of an item whose payload is gone.
local function forget(uid)
  unhold(uid)
  unlist(uid)
  forget_records(uid)
end

-- Counts a ghost that the list has from now on.
local function haunt()
  redis.call('HINCRBY', meta, 'ghosts', 1)
end

-- Removes an item that nobody holds, wherever it is.
local function remove_unheld(uid)
  redis.call('HDEL', items, uid)   -- first, as in settle
  if not unlist(uid) then
    haunt()
  end
  forget_records(uid)
end
