#!lua flags=allow-oom
-- Acks the items that the caller finished, does the housekeeping, and hands out up to n items, in one round trip.
-- ARGV[3]  consumer: the first part of the tokens; "c…": supervised (its leases are renewed), "g…": a plain get; then,
--          where it is known, "+" and how many items the consumer may have begun at one time
-- ARGV[4]  lease (ms); negative: these leases are never recovered automatically
-- ARGV[5]  lease (ms) of the items that saferedisqueue's consumers hold; negative: as above
-- ARGV[6]  n: items to hand out at most; 0: only ack; negative: only ack, and if this call is a repeat, give back the
--          items that the original handed out; -1: to their old places; -2: the caller could not read the reply: as -1,
--          but if there was a single item, it has failed, and goes to the back or is dead
-- ARGV[7]  max_deliveries, 0: any number; ARGV[8] max_crashes, 0: any number; for items whose leases ended
-- ARGV[9]  max_in_flight: items in flight at most, across all consumers; 0: any number; -1: no limit for this claim
-- ARGV[10] interval (ms, may have a fraction) from one item to the next, across all consumers; 0: no such limit
-- ARGV[11…] per item to ack: uid, token ('': any holder's), number of the put ('': the uid was generated)
-- Reply: the acks' flags (1: this call removed the item), the time (ms) until it is worth asking again (-1: no known
--   moment; 0: ask again at once, also when all n items were handed out), how many ready items only the limits hold up,
--   then per item handed out: uid, token, payload, deliveries (a number, or the text "deliveries crashes"), headers (''
--   for none).
-- A reply has at most MOST_BYTES of payloads and headers besides those of its first item; more may be ready then (0).
-- A suspect is an item that was in hand when a consumer died. It is handed out alone. A consumer that holds a suspect
--   gets no other suspect for a while, but the items behind it. When only suspects are left, they count as held up.
-- A repeated call gets the same items again, their leases renewed, as far as the caller still holds them.
-- include: keys begin wake records most_bytes
local GHOSTS_MOST = 100
local BURST = 100      -- ms by which the rate may run late and catch up
local LOOK = 5000      -- ms after which an idle consumer claims by itself
local MISSED = 2000    -- ms after which another consumer comes, in case the one that was told to come does not
local APART = 60000    -- ms for which a consumer that holds a suspect gets no other suspect
local CROWDED = 1000   -- ms after which such a consumer may ask again
local consumer, width = string.match(ARGV[3], '^([^+]*)(.*)$')
local lease, n = tonumber(ARGV[4]), math.max(0, tonumber(ARGV[6]))
local deadline = lease < 0 and lease - now or now + lease

-- In the common case only the list has items, and no item has records. One command finds that out, instead of many.
-- plain: all items are on the list or in flight, and the queue is not paused; recorded: some item has records;
-- suspected: some item has crashes.
local plain, recorded, suspected
local function look_around()
  plain, recorded, suspected = true, false, false
  local some = redis.call('EXISTS', returned, priority, delayed, dead, paused, deliveries, crashes, errors, headers)
  if some > 0 then
    recorded = has_records()
    suspected = recorded and redis.call('EXISTS', crashes) == 1
    plain = redis.call('EXISTS', returned, priority, delayed, dead, paused) == 0
  end
end
look_around()

-- Adds an item to the reply; returns the number of this delivery, and the item's headers.
local function describe(reply, uid, token, payload)
  local n = #reply
  local delivery = recorded and deliveries_of(uid) + 1 or 1
  local about_it = recorded and redis.call('HGET', headers, uid) or ''
  local died = suspected and redis.call('HGET', crashes, uid)
  local ends = died and delivery .. ' ' .. died or delivery
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4], reply[n + 5] = uid, token, payload, ends, about_it
  return delivery, about_it
end

if repeated then
  local flags, wait, held_up, taken = string.match(repeated, '^(%S*) (%S+) (%S+)(.*)$')
  if tonumber(ARGV[6]) < 0 then
    -- include: removal lifecycle
    local ours = {}
    for uid, token in string.gmatch(taken, ' (%S+) (%S+)') do
      if redis.call('HGET', holders, uid) == token and redis.call('HEXISTS', items, uid) == 1 then
        ours[#ours + 1] = {uid, token}
      end
    end
    -- A single item in a reply that cannot be read is the cause of that. It has failed: in its old place it would come
    -- next again, and hold up all other items for ever.
    if #ours == 1 and ARGV[6] == '-2' then
      local uid, token = unpack(ours[1])
      local most = tonumber(ARGV[7])
      local failure = {type = 'ReplyUnread', message = 'the consumer could not read it to its end', consumer = consumer}
      if end_delivery(uid, token) >= most and most > 0 then
        bury(uid, failure)
      else
        record(uid, failure)
        place(uid)
      end
      unhold(uid)
      count('failed')
    elseif #ours > 0 then
      for _, one in ipairs(ours) do
        give_back(unpack(one))
      end
      count('released', #ours)
    end
    ring(#ours)
    finish(flags .. ' 0 0')
    return {flags, '0', '0'}
  end
  local reply = {flags, wait, held_up}
  for uid, token in string.gmatch(taken, ' (%S+) (%S+)') do
    local payload = redis.call('HGET', items, uid)
    if payload and redis.call('HGET', holders, uid) == token then
      redis.call('ZADD', leases, deadline, uid)
      describe(reply, uid, token, payload)
    end
  end
  return reply
end

-- The comment at the end of the next line is needed: scripts.py finds in it which fields of meta to read.
local kind = 'lease_' .. string.sub(consumer, 1, 1)   -- facts.lease_c or facts.lease_g
local length = math.abs(lease)
if facts[kind] ~= length then
  facts[kind] = length
  redis.call('HSET', meta, kind, length)
end
if length > (facts.longest or 0) then
  facts.longest = length
  redis.call('HSET', meta, 'longest', length)
end

local at = 11
-- include: settle
local most, interval = tonumber(ARGV[9]), tonumber(ARGV[10])
if most > 0 and facts.most ~= most then
  facts.most = most
  redis.call('HSET', meta, 'most', most)
elseif most == 0 and facts.most then
  facts.most = nil
  redis.call('HDEL', meta, 'most')
end

-- If this is the consumer that was told when to come again (see below), it starts anew. From here on, told > now means
-- that another consumer is coming.
if (facts.told or 0) > now and (facts.told > now + LOOK + 1   -- written by a clock that was ahead
  or redis.call('HGET', meta, 'told_to') == consumer) then
  facts.told = nil
  redis.call('HDEL', meta, 'told')
end

-- Counts a delivery; the first delivery of an item by how long the item waited, since its put or its due time. A
-- generated uid has the time of its put, by the producer's clock, in its first 48 bits (RFC 9562, 5.7).
local function count_delivery(uid, deliveries, about_it)
  local since
  if deliveries > 1 then
    since = nil
  elseif about_it ~= '' then
    local known = cjson.decode(about_it)
    since = known.due or known.time
  elseif string.sub(uid, 15, 15) == '7' then
    since = tonumber(string.sub(uid, 1, 8) .. string.sub(uid, 10, 13), 16)
  end
  if since then
    count_time('wait', now - since)
  else
    count('delivered')
  end
end

-- The bytes that an item adds to the reply.
local function size_of(uid)
  return redis.call('HSTRLEN', items, uid) + (recorded and redis.call('HSTRLEN', headers, uid) or 0)
end

local function token_of(order)
  return consumer .. string.format('/%d@%d', order, now) .. width
end

local reply, outcome = {'', '0', '0'}, {'', '0', '0'}   -- outcome: for a repeat of this call
local handed, made, left = 0, 0, 0
local held_up, till, due = false, nil, nil
local pass_on   -- set when only suspects are left that this consumer may not have now: wakes another consumer
local chores = is_due()
local ended = redis.call('ZCOUNT', leases, 0, now) > 0

-- The fast path ("straight"), for the common case: only the list has ready items, nothing else is to be made ready,
-- nothing limits this claim, and the next items on the list are nowhere else. It checks all of them before it changes
-- anything. With such items, the careful path below does the same, one by one.
local straight = not (chores or ended) and most <= 0 and interval == 0 and (plain
  or redis.call('EXISTS', returned, priority, paused) == 0 and redis.call('ZCOUNT', delayed, '-inf', now) == 0)
if straight then
  local uids = redis.call('LRANGE', queue, -n - 1, -1)   -- the last is the next; one more than n shows if any are left
  local first, bytes = #uids > n and 2 or 1, 0
  for i = #uids - 1, first, -1 do   -- the next item goes out, whatever its size
    bytes = bytes + size_of(uids[i])
    if bytes > MOST_BYTES then
      first = i + 1
      break
    end
  end
  local number = #uids - first + 1
  if number > 0 then
    local payloads = redis.call('HMGET', items, unpack(uids, first))
    local holder = redis.call('HMGET', holders, unpack(uids, first))
    local waits, died, seen = holder, holder, {}   -- if plain, no item is delayed or dead: there is no more to ask
    local suspects = suspected and redis.call('HMGET', crashes, unpack(uids, first)) or holder
    if not plain then
      waits = redis.call('ZMSCORE', delayed, unpack(uids, first))
      died = redis.call('ZMSCORE', dead, unpack(uids, first))
    end
    for i = 1, number do
      local uid = uids[first + i - 1]
      straight = straight and payloads[i] and not (holder[i] or waits[i] or died[i] or suspects[i] or seen[uid])
      seen[uid] = true
    end
    if straight then
      local order, scores = redis.call('HINCRBY', meta, 'order', number) - number, {}
      for i = number, 1, -1 do
        local uid = uids[first + i - 1]
        local token = token_of(order + handed + 1)
        local place = 2 * handed
        scores[place + 1], scores[place + 2] = deadline + handed / 2048, uid
        outcome[place + 4], outcome[place + 5] = uid, token
        handed = handed + 1
        count_delivery(uid, describe(reply, uid, token, payloads[i]))
      end
      redis.call('ZADD', leases, unpack(scores))
      redis.call('HSET', holders, unpack(outcome, 4))
      redis.call('LTRIM', queue, 0, -number - 1)
    end
  end
  left = first - 1
end

-- The careful path, for all other cases.
if not straight then
  -- include: removal lifecycle ghosts suspects

  local function is_paused()
    local text = redis.call('GET', paused)
    local till = text and cjson.decode(text)['until']
    if till and till <= now then
      redis.call('DEL', paused)
      return false
    end
    return text and true, till
  end

  if chores or not plain or ended then
    -- include: housekeeping
    if chores then
      keep_house(tonumber(ARGV[5]))
    end
    made = recover_ended(tonumber(ARGV[7]), tonumber(ARGV[8])) + promote_due()
    look_around()
  end
  local some_priority = false
  if not plain then
    some_priority = redis.call('ZCARD', priority) > 0
    held_up, till = is_paused()
  end

  -- The virtual scheduling algorithm (GCRA, ITU-T I.371): one item per interval, the next not before next_due in meta.
  -- When consumers come late, the schedule lags behind, by at most BURST, and they may catch up.
  -- Returns how many items may be taken now, and the next due time.
  local function allowed()
    if interval == 0 then
      return n
    end
    local due = math.max(now - BURST, tonumber(redis.call('HGET', meta, 'next_due') or 0))
    if due > now + interval then   -- set by a slower rate, or by a clock that was ahead
      due = now + interval
      redis.call('HSET', meta, 'next_due', string.format('%.3f', due))
    end
    return math.max(0, math.min(n, math.floor((now - due) / interval) + 1)), due
  end

  local room
  room, due = allowed()
  if most > 0 then
    room = math.max(0, math.min(room, most - redis.call('HLEN', holders)))
  end

  -- Takes the next ready uid off its key; returns the uid, the key, and its score there.
  local function pop()
    if some_priority then
      local uid, score = unpack(redis.call('ZRANGE', priority, '-inf', '(0', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES'))
      if uid then
        redis.call('ZREM', priority, uid)
        return uid, priority, score
      end
    end
    if not plain then
      local uid, score = unpack(redis.call('ZPOPMIN', returned))
      if uid then
        return uid, returned, score
      end
    end
    local uid = redis.call('RPOP', queue)
    if uid then
      return uid, queue
    end
    if some_priority then
      local last, score = unpack(redis.call('ZPOPMIN', priority))
      return last, priority, score
    end
  end

  -- Makes the caller the holder of an item; returns the token, or nil when somebody holds the item already.
  -- first: order number of the item's first claim, for an item that came back.
  -- The fraction of the deadline keeps the order in which items were handed out, as their leases end in that order.
  local function hand_out(uid, first)
    local token = token_of(redis.call('HINCRBY', meta, 'order', 1))
    if first then
      token = token .. '/' .. first
    end
    if redis.call('HSETNX', holders, uid, token) == 1 then
      redis.call('ZADD', leases, deadline + handed / 2048, uid)
      return token
    end
    redis.call('HINCRBY', meta, 'order', -1)
  end

  local function put_back(uid, key, score)
    if key == queue then
      redis.call('RPUSH', queue, uid)
    else
      redis.call('ZADD', key, score, uid)
    end
  end

  local function take_off(uid, key)
    if key == queue then
      redis.call('LREM', queue, -1, uid)
    else
      redis.call('ZREM', key, uid)
    end
  end

  local ghosts, bytes = 0, 0
  local behind
  if suspected and n > 0 and not held_up and holds_suspect() then
    -- The suspects keep their places, and are handed out from there later.
    local known = tonumber(redis.call('HGET', meta, 'ghosts') or 0)
    behind = behind_suspects(room + math.min(known, GHOSTS_MOST) + 1)   -- one more than needed shows if any are left
  end
  while not held_up and handed < room and ghosts < GHOSTS_MOST do
    local uid, key, score
    if behind then
      uid, key, score = unpack(behind[handed + ghosts + 1] or {})
    else
      uid, key, score = pop()
    end
    if not uid then
      break
    end
    local size = handed > 0 and size_of(uid) or 0
    if bytes + size > MOST_BYTES then
      if not behind then
        put_back(uid, key, score)
      end
      break
    end
    if behind then
      take_off(uid, key)
    end
    local sound, failure = pcall(function()
      local payload = redis.call('HGET', items, uid)
      if is_suspect(uid) and not is_ghost(uid, payload, key == queue, plain) then
        room = 1   -- alone
        if handed > 0 then
          room = handed
          put_back(uid, key, score)
          return
        end
        note_suspect(uid)
      end
      local token = plain and payload and hand_out(uid, nil)
      recorded = recorded or not token
      if not token and is_ghost(uid, payload, key == queue, plain) then
        if key == queue then
          lay_ghost()
        end
        ghosts = ghosts + 1
      else
        token = token or hand_out(uid, key == returned and score or some_priority and about(uid).back)
        handed, bytes = handed + 1, bytes + size
        outcome[2 * handed + 2], outcome[2 * handed + 3] = uid, token
        count_delivery(uid, describe(reply, uid, token, payload))
      end
    end)
    if not sound then
      -- A key turned out to belong to something else: the uid goes back to where it was.
      put_back(uid, key, score)
      pcall(unhold, uid)
      error(failure)
    end
  end
  if behind and #behind == handed and ghosts == 0 then
    pass_on = pass_on_suspect
  end

  if interval > 0 and handed > 0 then
    due = due + handed * interval
    redis.call('HSET', meta, 'next_due', string.format('%.3f', due))
  end
  left = redis.call('LLEN', queue)
  if not plain then
    left = left + redis.call('ZCARD', returned) + (some_priority and redis.call('ZCARD', priority) or 0)
  end
end

-- Whether max_in_flight, or the rate, would give nothing to another consumer that came now.
local full = most > 0 and redis.call('HLEN', holders) >= most
local early = interval > 0 and due > now
local wait = 0
if held_up then
  wait = till and math.max(10, till - now) or -1
elseif left == 0 or full or early then
  -- include: next_event
  wait = handed < n and next_event() or 0   -- a consumer that got all n items comes again anyway
  local function within(ms)
    wait = wait < 0 and ms or math.min(wait, ms)
  end
  if left == 0 then
    redis.call('DEL', wake)
  else
    reply[3] = left
    if not full then   -- else the next ack wakes a consumer
      redis.call('DEL', wake)
      -- The rate allows nothing yet. Of all consumers that come too early, one is told when to come again: the first
      -- that gets no item by its claim. Until then nobody is woken. The others need not come, or only MISSED ms later,
      -- in case the first is busy or gone by then.
      if (facts.told or 0) > now then
        local missed = facts.told - now + MISSED
        if missed < LOOK then
          within(missed)
        end
      elseif handed == 0 and n > 0 then
        facts.told = math.ceil(math.min(due, now + LOOK))
        redis.call('HSET', meta, 'told', facts.told, 'told_to', consumer)
        within(math.max(10, math.ceil(due - now)))
      else
        ring(1)   -- this consumer gets no item yet, but is told when to come
      end
    end
  end
end
if pass_on and left > 0 and not (full or early) then
  wait, reply[3] = CROWDED, left
  pass_on()
elseif left > 0 and not (held_up or full or early) then
  -- Pass on the baton: a claim that leaves items that can be taken wakes consumers for them.
  ring(math.max(math.min(made - handed, left), redis.call('LLEN', wake) == 0 and 1 or 0))
end
reply[1] = table.concat(flags)
if wait ~= 0 then
  reply[2] = string.format('%.0f', wait)
end
outcome[1], outcome[2], outcome[3] = reply[1], reply[2], reply[3]
finish(table.concat(outcome, ' '))
return reply
