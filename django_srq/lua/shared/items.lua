-- What the operations do to one item. Needs keys, call, tell, records.
local GROUPS_MOST = 200   -- groups of dead items; more are counted as "other"
local RANK = 2 ^ 44       -- room for the put numbers of one priority

local function about(uid)
  local text = redis.call('HGET', headers, uid)
  return text and cjson.decode(text) or {}
end

-- A token is consumer/number of the claim@its time (ms), and for what came back also /order number of its first claim.
local function claim_of(token)
  return string.match(token, '^[^/]*/(%d+)')
end

local function end_delivery(uid, token)
  local ended = deliveries_of(uid) + 1
  redis.call('HSET', deliveries, uid, ended .. ' ' .. claim_of(token))
  return ended
end

-- Makes an item ready: in its old place (first: order number of its first claim), or at the back (first is nil).
-- One with a priority has first as "back" in its headers, where others have it as their score in returned.
local function place(uid, first)
  local item = about(uid)
  if item.priority then
    item.back = first
    if not first then
      item.order = redis.call('HINCRBY', meta, 'puts', 1)
    end
    redis.call('HSET', headers, uid, cjson.encode(item))
    redis.call('ZADD', priority, string.format('%.0f', -item.priority * RANK + (item.order or item.number)), uid)
  elseif first then
    redis.call('ZADD', returned, first, uid)
  else
    redis.call('LPUSH', queue, uid)
  end
end

-- What is due in the same millisecond stays in the order of the puts: 4096 of them, by the fraction of the score.
local function postpone(uid, due)
  local earliest = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
  local last = redis.call('ZRANGE', delayed, '(' .. due + 1, due, 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')[2]
  redis.call('ZADD', delayed, last and math.min(last + 1 / 4096, due + 4095 / 4096) or due, uid)
  if not earliest or due < tonumber(earliest) then
    ring(1)
  end
end

-- Counts a dead item into (by 1) or out of (by -1) its group; returns the group that took it. The group remembers the uid
-- of the last item that it took, as an example.
local function group(name, by, uid)
  local entry = redis.call('HGET', deadgroups, name)
  if not entry and by > 0 and name ~= 'other' and redis.call('HLEN', deadgroups) >= GROUPS_MOST then
    return group('other', by, uid)
  end
  local number, first = string.match(entry or '0 ' .. now .. ' ' .. now, '^(%d+) (%d+)')
  number = number + by
  if number > 0 then
    local last = by > 0 and now .. ' ' .. uid or string.match(entry, '^%d+ %d+ (.*)$')
    redis.call('HSET', deadgroups, name, number .. ' ' .. first .. ' ' .. last)
  else
    redis.call('HDEL', deadgroups, name)
  end
  return name
end

local function full()
  local memory = redis.call('INFO', 'memory')
  local limit = tonumber(string.match(memory, 'maxmemory:(%d+)'))
  return limit > 0 and tonumber(string.match(memory, 'used_memory:(%d+)')) > limit
end

-- Keeps the error of a delivery; without its traceback when the server has no room.
local function record(uid, failure)
  failure.time = now
  failure.delivery = deliveries_of(uid)
  if failure.traceback and full() then
    failure.traceback = nil
  end
  redis.call('HSET', errors, uid, cjson.encode(failure))
end

-- Sets an item aside, with the error as the evidence.
local function bury(uid, failure)
  failure.group = group(failure.fingerprint or failure.type, 1, uid)
  record(uid, failure)
  redis.call('ZADD', dead, now, uid)
  count('dead')
end

-- Takes a uid out of dead and out of its group's count; returns whether it was there.
local function exhume(uid)
  if redis.call('ZREM', dead, uid) == 0 then
    return false
  end
  local failure = redis.call('HGET', errors, uid)
  if failure then
    group(cjson.decode(failure).group or 'other', -1)
  end
  return true
end

-- Makes a dead item ready again, at the back, its deliveries and crashes counted anew.
local function requeue(uid)
  redis.call('HDEL', deliveries, uid)
  redis.call('HDEL', crashes, uid)
  place(uid)
  exhume(uid)
end

-- Returns 1 when somebody held it, else 0.
local function unhold(uid)
  redis.call('ZREM', leases, uid)
  return redis.call('HDEL', holders, uid)
end

-- Takes a uid out of whatever zset has it. A list cannot be searched: there a ghost stays, dropped on contact.
local function unlist(uid)
  return redis.call('ZREM', returned, uid) + redis.call('ZREM', priority, uid) + redis.call('ZREM', delayed, uid) > 0
    or exhume(uid)
end

local function forget_records(uid)
  if has_records() then
    redis.call('HDEL', deliveries, uid)
    redis.call('HDEL', crashes, uid)
    redis.call('HDEL', errors, uid)
    redis.call('HDEL', headers, uid)
  end
end

-- Drops all that is left of an item whose payload is gone.
local function forget(uid)
  unhold(uid)
  unlist(uid)
  forget_records(uid)
end

local function haunt()
  redis.call('HINCRBY', meta, 'ghosts', 1)
end

-- Removes an item that nobody holds, wherever it is.
local function remove_unheld(uid)
  if not unlist(uid) then
    haunt()
  end
  forget_records(uid)
  redis.call('HDEL', items, uid)
end

-- The order number of an item's first claim is the last part of its token, or that of the claim itself.
local function first_claim(token)
  return tonumber(string.match(token, '/(%d+)$') or claim_of(token))
end

-- Ends a delivery that did not begin: to its old place, not counted, and nobody before takes it back from there.
local function give_back(uid, token)
  place(uid, first_claim(token))
  if redis.call('HEXISTS', deliveries, uid) == 1 then
    redis.call('HSET', deliveries, uid, deliveries_of(uid) .. ' 0')
  end
  unhold(uid)
end

-- The state of an item that is in items.
local function state_of(uid)
  if redis.call('HEXISTS', holders, uid) == 1 then
    return 'in_flight'
  elseif redis.call('ZSCORE', delayed, uid) then
    return 'delayed'
  elseif redis.call('ZSCORE', dead, uid) then
    return 'dead'
  end
  return 'ready'
end

-- Acks one item. By token ('': by whoever holds it) and number of the put ('': a generated uid): the work is done,
-- wherever the item is now, but only that of the put which the caller was given. Counts it. recorded: whether any item may
-- have records. Returns '1' if it was there, else '0'.
local function settle(uid, token, number, recorded)
  if token == '' then
    token = redis.call('HGET', holders, uid)
    if not token then
      return '0'
    end
  elseif (recorded or number ~= '') and tostring(about(uid).number or '') ~= number then
    return '0'
  end
  if unhold(uid) == 0 and redis.call('HEXISTS', items, uid) == 1 then
    remove_unheld(uid)
    count('acked')
    return '1'
  end
  if recorded then
    forget_records(uid)
  end
  if redis.call('HDEL', items, uid) == 0 then
    forget(uid)
    return '0'
  end
  count_settled(token)
  return '1'
end

-- Ends a delivery that was not acked: counts it, and makes the item ready again or, when its limits are used up, dead.
-- crashed: whether the consumer died of it. Returns the state it went to.
local function give_up(uid, token, crashed, max_deliveries, max_crashes, failure)
  local delivered = end_delivery(uid, token)
  local died = crashed and redis.call('HINCRBY', crashes, uid, 1) or 0
  local state = 'ready'
  if max_deliveries > 0 and delivered >= max_deliveries or max_crashes > 0 and died >= max_crashes then
    bury(uid, failure)
    state = 'dead'
  else
    if crashed then
      record(uid, failure)
    end
    place(uid, first_claim(token))
  end
  unhold(uid)
  return state
end
