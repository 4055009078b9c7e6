-- Housekeeping: what time makes necessary. Promotes delays that are due, recovers leases that ended, adopts the items
-- that saferedisqueue's consumers hold; each for at most BATCH items in one call. Needs keys, begin, wake, records,
-- removal, lifecycle.
-- include: leases uniques results
local BATCH = 100
local RESULTS_OUT = 1000      -- results whose time is over that are deleted, at most: they come as fast as acks
local SLOT_UNUSED = 3600000   -- ms without use after which a slot is trimmed
local IN_VIEW = 1000          -- leases, those that end first, among which those of a lost consumer are searched

local function promote_due()
  local due = redis.call('ZRANGE', delayed, '-inf', now, 'BYSCORE', 'LIMIT', 0, BATCH)
  local made = 0
  for _, uid in ipairs(due) do
    if redis.call('HEXISTS', items, uid) == 0 then
      forget(uid)
    elseif redis.call('HEXISTS', holders, uid) == 0 then
      place(uid)
      if redis.call('HEXISTS', deliveries, uid) == 1 then   -- its headers have no due time, or that of its first delivery
        waits_since(uid, redis.call('ZSCORE', delayed, uid))
      end
      made = made + 1
    end
    undelay(uid)
  end
  return made
end

-- The time (ms) within which a holder that lives renews its lease: it does so every third of a lease, and may need a
-- moment to connect.
local function heard_within(lease)
  return math.min(lease / 2, lease / 3 + 1000)
end

-- How long (ms) an ended lease is still left to its holder, because it may have ended only while the server was away:
-- one lease. When the server's run went on, a silence was no outage: the holder may be dead, and if it lives, it renews
-- soon. A plain get renews nothing, so that a mere silence says nothing about it. 0: the lease has ended for good.
local function reprieve(token, deadline)
  local found = redis.call('HMGET', meta, 'restarted', 'silent', 'quiet')
  local restarted, silent, quiet = tonumber(found[1] or 0), tonumber(found[2] or 0), tonumber(found[3] or 0)
  if string.sub(token, 1, 1) ~= 'c' then
    local lease = facts.lease_g or 0
    return deadline < restarted + lease and lease or 0
  end
  local lease = facts.lease_c or 0
  if deadline < math.max(restarted, silent) + lease then
    return lease
  end
  return math.max(0, math.min(quiet, now) + heard_within(lease) - now)
end

-- The order numbers of the claims of the items that a consumer holds, the lowest first.
local function claims_of(consumer)
  local uids = redis.call('ZRANGE', leases, -now, '+inf', 'BYSCORE', 'LIMIT', 0, IN_VIEW)
  local orders = {}
  for _, token in ipairs(#uids > 0 and redis.call('HMGET', holders, unpack(uids)) or {}) do
    if token and string.match(token, '^[^/]*') == consumer then
      orders[#orders + 1] = tonumber(claim_of(token))
    end
  end
  table.sort(orders)
  return orders
end

-- The order number of the last item that a lost consumer may have begun. A consumer begins its items in that order, at
-- most width of them at one time, and acks an item before it begins the next. The number is found out when the first of
-- its leases has ended, and kept for the others.
local function last_begun(consumer, width)
  local field = consumer .. '.lost'
  local found, last = string.match(redis.call('HGET', slots, field) or '', '^0 (%d+) (%d+)$')
  if not found or now - found > 2 * (facts.lease_c or 0) then   -- so old that all leases of that time have ended
    local orders = claims_of(consumer)
    last = string.format('%.0f', orders[math.min(width, #orders)] or 0)
    redis.call('HSET', slots, field, '0 ' .. now .. ' ' .. last)
  end
  return tonumber(last)
end

-- Whether the holder may have begun the item. A consumer of an older version does not say how many it may have begun.
local function may_have_begun(token)
  local width = string.match(token, '@%d+%+(%d+)')
  return not width or tonumber(claim_of(token)) <= last_begun(string.match(token, '^[^/]*'), tonumber(width))
end

local function recover_one(uid, token, max_deliveries, max_crashes)
  if not may_have_begun(token) then
    count('recovered')
    give_back(uid, token)
    return 1
  end
  local lost = string.sub(token, 1, 1) == 'c'
  local consumer = string.match(token, '^[^/]*')
  local failure = lost
    and {type = 'ConsumerLost', message = 'the consumer was lost: its lease ended', consumer = consumer}
    or {type = 'LeaseEnded', message = 'taken and never settled until its lease ended', consumer = consumer}
  count('recovered')
  if lost then
    count('crashed')
  end
  return give_up(uid, token, lost, max_deliveries, max_crashes, failure) == 'ready' and 1 or 0
end

-- by_hand: recovers also leases that are never recovered automatically, and gives no reprieve after an outage.
-- Returns the number of items made ready, and the number of leases that it looked at.
local function recover_ended(max_deliveries, max_crashes, by_hand)
  local ended = redis.call('ZRANGE', leases, by_hand and -now or 0, now, 'BYSCORE', 'LIMIT', 0, BATCH, 'WITHSCORES')
  local made = 0
  for i = 1, #ended, 2 do
    local uid, deadline = ended[i], math.abs(tonumber(ended[i + 1]))
    local token = redis.call('HGET', holders, uid)
    local left = token and deadline % 1 < 0.5 and not by_hand and reprieve(token, deadline) or 0
    if not token or redis.call('HEXISTS', items, uid) == 0 then
      forget(uid)
    elseif left > 0 then
      redis.call('ZADD', leases, math.ceil(now + left) + 0.5 + deadline % 1, uid)
    else
      made = made + recover_one(uid, token, max_deliveries, max_crashes)
    end
  end
  return made, #ended / 2
end

-- Gives an item that a saferedisqueue consumer took a holder, "legacy/" and a number, and a lease.
local function adopt(uid, lease, recovers)
  if redis.call('HEXISTS', items, uid) == 1 and redis.call('HEXISTS', holders, uid) == 0
    and not redis.call('ZSCORE', delayed, uid) and not redis.call('ZSCORE', dead, uid)
    and not redis.call('ZSCORE', returned, uid) and not redis.call('ZSCORE', priority, uid) then
    redis.call('ZADD', leases, deadline_of(lease, recovers), uid)
    redis.call('HSET', holders, uid, 'legacy/' .. redis.call('HINCRBY', meta, 'order', 1))
  end
end

-- We never create backup, and never take its lock. A lock without expiry, whose owner crashed, gets one.
local function adopt_legacy(lease, recovers)
  for _, key in ipairs({backup, ackbuf}) do
    local uids = redis.call('LRANGE', key, -BATCH, -1)
    for i = #uids, 1, -1 do   -- the oldest is the last
      adopt(uids[i], lease, recovers)
      redis.call('LREM', key, -1, uids[i])
    end
  end
  for _, uid in ipairs(redis.call('ZRANGE', ackbuf_aging, 0, BATCH - 1)) do
    adopt(uid, lease, recovers)
    redis.call('ZREM', ackbuf_aging, uid)
  end
  if redis.call('PTTL', backuplock) == -1 then
    redis.call('PEXPIRE', backuplock, lease)
  end
end

-- The clock of a promoted replica may be behind: no deadline may be further ahead than the longest lease.
local function clip_deadlines()
  if facts.longest then
    local latest = now + facts.longest
    for _, uid in ipairs(redis.call('ZRANGE', leases, '(' .. latest + 1, '+inf', 'BYSCORE', 'LIMIT', 0, BATCH)) do
      redis.call('ZADD', leases, latest, uid)
    end
  end
end

-- Looks at some fields of a hash, and in the next call at the next ones.
-- cursor: the field of meta that says where to go on; number: about how many fields.
local function walk(hash, cursor, number, look)
  local scan = redis.call('HSCAN', hash, redis.call('HGET', meta, cursor) or 0, 'COUNT', number)
  for i = 1, #scan[2], 2 do
    look(scan[2][i], scan[2][i + 1])
  end
  redis.call('HSET', meta, cursor, scan[1])
end

local function trim_slots()
  walk(slots, 'slot_cursor', 20, function(slot, known)
    if now - tonumber(string.match(known, '^%d+ (%d+)')) > SLOT_UNUSED then
      redis.call('HDEL', slots, slot)
    end
  end)
end

-- A saferedisqueue consumer that acks an item deletes it from items only, and an older version leaves its entry in
-- waiting. Records would slow down every ack.
local function drop_leftovers()
  if has_records() or redis.call('EXISTS', waiting) == 1 then
    for i, hash in ipairs({deliveries, crashes, errors, headers, waiting}) do
      walk(hash, 'cursor' .. i, 20, function(uid)
        if redis.call('HEXISTS', items, uid) == 0 then
          forget(uid)
        end
      end)
    end
  end
end

-- Processes of older versions leave uids in retrying whose items are not delayed any more.
local function drop_stale_retries()
  if redis.call('EXISTS', retrying, retrygroups) == 0 then
    return
  end
  walk(retrying, 'retry_cursor', BATCH, function(uid)
    if not redis.call('ZSCORE', delayed, uid) then
      stop_retrying(uid)
    end
  end)
  if redis.call('EXISTS', retrying) == 0 then
    redis.call('DEL', retrygroups)
  end
end

-- The chores that need no haste: they are done once a second. lease (ms), recovers: of the items that saferedisqueue's
-- consumers hold.
local function keep_house(lease, recovers)
  adopt_legacy(lease, recovers)
  clip_deadlines()
  trim_slots()
  drop_leftovers()
  trim_uniques(BATCH)
  trim_results(RESULTS_OUT)
  drop_stale_retries()
  if redis.call('LLEN', queue) == 0 then
    redis.call('HDEL', meta, 'ghosts')
  end
  redis.call('HSET', meta, 'kept', now)
end
