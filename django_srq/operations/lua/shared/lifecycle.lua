-- The steps in the life of one item. Needs keys, begin, wake, records, removal.
local RANK = 2 ^ 44       -- room for the put numbers of one priority
local EARLIER_MOST = 4    -- errors of an item that are kept besides its last one
local TRACEBACK_MOST = 2000   -- bytes of their tracebacks, where more errors are kept

-- A token is consumer/number of the claim@its time (ms); then, where the consumer says so, +how many items it may have
-- begun at one time; and for an item that came back, /order number of its first claim.
local function claim_of(token)
  return string.match(token, '^[^/]*/(%d+)')
end

-- The token of the holder of an item, if it is this one ('': any); else false.
local function holder_of(uid, token)
  local holder = redis.call('HGET', holders, uid)
  return holder and (token == '' or holder == token) and holder
end

-- Whether an item is there and in flight under this token.
local function is_held(uid, token)
  return redis.call('HGET', holders, uid) == token and redis.call('HEXISTS', items, uid) == 1
end

local function end_delivery(uid, token)
  local ended = deliveries_of(uid) + 1
  redis.call('HSET', deliveries, uid, ended .. ' ' .. claim_of(token))
  return ended
end

-- Makes an item ready: in its old place (first: order number of its first claim), or at the back (first is nil).
-- An item with a priority keeps first as "back" in its headers; other items have it as their score in returned.
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

-- Notes since when a ready item waits (ms), where that is neither its put nor its due time: it was ready before, or was
-- made ready before it was due. Only for items that have other records, too: claims look for this where there are any.
local function waits_since(uid, moment)
  redis.call('HSET', waiting, uid, moment)
end

-- Up to 4096 items that are due in the same millisecond stay in the order of their puts, by the fraction of the score.
local function postpone(uid, due)
  local earliest = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
  local last = redis.call('ZRANGE', delayed, '(' .. due + 1, due, 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')[2]
  redis.call('ZADD', delayed, last and math.min(last + 1 / 4096, due + 4095 / 4096) or due, uid)
  if not earliest or due < tonumber(earliest) then
    ring(1)
  end
end

-- Whether no code raised the error: a process or a consumer died, or nobody settled the item.
local function is_of_end(kind)
  return kind == 'Crashed' or kind == 'ConsumerLost' or kind == 'LeaseEnded' or kind == 'ReplyUnread'
end

-- The name of the group of an item with this error: its fingerprint, and before it the task, if the item is one. Errors
-- of tasks say how many errors are kept ("keep"); those that only tell how a delivery ended do not.
local function group_name(uid, failure)
  local name = failure.fingerprint or failure.type
  local task = (failure.keep or is_of_end(failure.type))
    and string.match(redis.call('HGET', items, uid) or '', '^{"task":%s?"([^"\\%s]+%.[^"\\%s]+)",%s?"args":%s?%[')
  return task and task .. ': ' .. name or name
end

-- Delays an item that failed, and counts it as retrying.
local function retry_at(uid, due, failure)
  redis.call('HSET', retrying, uid, group(retrygroups, group_name(uid, failure), 1, uid))
  postpone(uid, due)
end

-- Makes a delayed item ready now, at the back; its deliveries stay counted.
local function run_now(uid)
  local item = about(uid)
  if item.due then   -- from now on it waits
    item.due = now
    redis.call('HSET', headers, uid, cjson.encode(item))
  end
  if redis.call('HEXISTS', deliveries, uid) == 1 then   -- as in promote_due
    waits_since(uid, now)
  end
  place(uid)
  undelay(uid)
end

-- include: info
-- Whether the server's memory is full; false where the server does not say.
local function full()
  local memory = info('memory')
  local limit = tonumber(string.match(memory, 'maxmemory:(%d+)') or 0)
  return limit > 0 and tonumber(string.match(memory, 'used_memory:(%d+)')) > limit
end

-- The end of a traceback, without a part of a character.
local function end_of(traceback)
  if traceback and #traceback > TRACEBACK_MOST then
    return (string.gsub(string.sub(traceback, -TRACEBACK_MOST), '^[\128-\191]+', ''))
  end
  return traceback
end

-- The errors of an item before the one that it gets now, the newest first. last: the entry in errors; keep: how many
-- are kept, each with the end of its traceback; nil: EARLIER_MOST, of which only the first has its traceback.
local function earlier_errors(last, keep)
  local found = {{
    type = last.type, message = last.message, time = last.time, delivery = last.delivery, consumer = last.consumer,
    started = last.started, postponed = last.postponed, traceback = last.traceback,
  }}
  for i, failure in ipairs(last.earlier or {}) do
    if i >= (keep or EARLIER_MOST) then
      break
    end
    found[i + 1] = failure
  end
  for i, failure in ipairs(found) do
    if keep then
      failure.traceback = end_of(failure.traceback)
    elseif i > 1 then
      failure.traceback = nil
    end
  end
  return found
end

-- Keeps the error of a delivery, and the errors before it as its last field, "earlier"; without tracebacks when the
-- server's memory is full. An error with "keep" (how many errors are kept before it) says when the delivery started,
-- too, and the errors that follow do the same.
local function record(uid, failure, token)
  local stored = redis.call('HGET', errors, uid)
  local last = stored and cjson.decode(stored)
  local keep = tonumber(failure.keep or last and last.keep)
  local earlier = last and earlier_errors(last, keep) or {}
  failure.time = now
  failure.delivery = deliveries_of(uid)
  if keep then
    failure.keep = keep
    failure.consumer = failure.consumer or string.match(token, '^[^/]*')
    failure.started = tonumber(string.match(token, '@(%d+)'))
  end
  local traced = failure.traceback
  for _, before in ipairs(earlier) do
    traced = traced or before.traceback
  end
  if traced and full() then
    failure.traceback = nil
    for _, before in ipairs(earlier) do
      before.traceback = nil
    end
  end
  stored = cjson.encode(failure)
  if earlier[1] then
    stored = string.sub(stored, 1, -2) .. ',"earlier":' .. cjson.encode(earlier) .. '}'
  end
  redis.call('HSET', errors, uid, stored)
end

-- Makes an item dead, with the error as the evidence. token: of the delivery that had it.
local function bury(uid, failure, token)
  failure.group = group(deadgroups, group_name(uid, failure), 1, uid)
  record(uid, failure, token)
  redis.call('ZADD', dead, now, uid)
  count('dead')
end

-- Makes a dead item ready again, at the back, and counts its deliveries and crashes anew.
local function requeue(uid)
  redis.call('HDEL', deliveries, uid)
  redis.call('HDEL', crashes, uid)
  place(uid)
  waits_since(uid, now)
  exhume(uid)
end

-- The order number of an item's first claim: the last part of its token, or else the number of this claim.
local function first_claim(token)
  return tonumber(string.match(token, '/(%d+)$') or claim_of(token))
end

-- From now on, nobody takes the item back: a renewal of its last lease may still be on its way.
local function forget_claim(uid)
  if redis.call('HEXISTS', deliveries, uid) == 1 then
    redis.call('HSET', deliveries, uid, deliveries_of(uid) .. ' 0')
  end
end

-- Ends a delivery whose item was not begun: the item goes to its old place, the delivery is not counted, and no earlier
-- holder takes the item back from there.
local function give_back(uid, token)
  forget_claim(uid)
  place(uid, first_claim(token))
  unhold(uid)
end

-- Ends a delivery that was not acked: counts it, and makes the item ready again or, when its limits are used up, dead.
-- crashed: whether the consumer died while it held the item. Returns the state to which the item went.
local function give_up(uid, token, crashed, max_deliveries, max_crashes, failure)
  local delivered = end_delivery(uid, token)
  local died = crashed and redis.call('HINCRBY', crashes, uid, 1) or 0
  local state = 'ready'
  if max_deliveries > 0 and delivered >= max_deliveries or max_crashes > 0 and died >= max_crashes then
    bury(uid, failure, token)
    state = 'dead'
  else
    if crashed or failure.keep then
      record(uid, failure, token)
    end
    place(uid, first_claim(token))
    waits_since(uid, now)
  end
  unhold(uid)
  return state
end
