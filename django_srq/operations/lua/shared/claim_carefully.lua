-- The careful path of a claim: takes any ready items, one by one, as far as the limits allow.
-- Needs keys, begin, wake, records, removal, lifecycle, ghosts, suspects, handing_out, most_bytes.
local GHOSTS_MOST = 100   -- ghosts in one call
local BURST = 100         -- ms by which the rate may run late and catch up

-- Whether the queue is paused, and until when (nil: until it is resumed). Ends a pause whose time is over.
local function is_paused()
  local text = redis.call('GET', paused)
  local till = text and cjson.decode(text)['until']
  if till and till <= now then
    redis.call('DEL', paused)
    return false
  end
  return text and true, till
end

-- The virtual scheduling algorithm (GCRA, ITU-T I.371): one item per interval, the next not before next_due in meta.
-- When consumers come late, the schedule lags behind, by at most BURST, and they may catch up.
-- Returns how many of n items may be taken now, and the next due time.
local function allowed(n, interval)
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

-- Takes the next ready uid off its key; returns the uid, the key, and its score there. plain: all ready items are on
-- the list; some_priority: some are in priority.
local function pop(plain, some_priority)
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

-- Makes the consumer the holder of an item; returns the token, or nil when somebody holds the item already.
-- first: order number of the item's first claim, for an item that came back. handed: items handed out before in this
-- claim. The fraction of the deadline keeps their order, as their leases end in that order.
local function hand_out(claim, uid, first, handed)
  local token = token_of(claim.consumer, claim.width, redis.call('HINCRBY', meta, 'order', 1))
  if first then
    token = token .. '/' .. first
  end
  if redis.call('HSETNX', holders, uid, token) == 1 then
    redis.call('ZADD', leases, claim.deadline + handed / 2048, uid)
    return token
  end
  redis.call('HINCRBY', meta, 'order', -1)
end

-- claim: consumer, width, n, deadline of the new leases, max_in_flight, interval; and what is known of the queue: plain,
-- recorded, suspected (see claim.lua). Adds the items to the reply and to the outcome.
-- Returns what next_look needs to know.
local function claim_carefully(claim, reply, outcome)
  local plain, recorded = claim.plain, claim.recorded
  local some_priority, held_up, till = false, false, nil
  if not plain then
    some_priority = redis.call('ZCARD', priority) > 0
    held_up, till = is_paused()
  end
  local room, due = allowed(claim.n, claim.interval)
  if claim.max_in_flight > 0 then
    room = math.max(0, math.min(room, claim.max_in_flight - redis.call('HLEN', holders)))
  end

  local behind
  if claim.suspected and claim.n > 0 and not held_up and holds_suspect(claim.consumer) then
    -- The suspects keep their places, and are handed out from there later.
    local known = tonumber(redis.call('HGET', meta, 'ghosts') or 0)
    behind = behind_suspects(room + math.min(known, GHOSTS_MOST) + 1)   -- one more than needed shows if any are left
  end
  local handed, ghosts, bytes = 0, 0, 0

  -- Hands out a uid that was taken off its key, unless it is a ghost, or a suspect behind others.
  local function take(uid, key, score, size)
    local payload = redis.call('HGET', items, uid)
    if claim.suspected and is_suspect(uid) and not is_ghost(uid, payload, key == queue, plain) then
      room = 1   -- alone
      if handed > 0 then
        room = handed
        put_back(uid, key, score)
        return
      end
      note_suspect(claim.consumer, uid)
    end
    local token = plain and payload and hand_out(claim, uid, nil, handed)
    recorded = recorded or not token
    if not token and is_ghost(uid, payload, key == queue, plain) then
      if key == queue then
        lay_ghost()
      end
      ghosts = ghosts + 1
    else
      token = token or hand_out(claim, uid, key == returned and score or some_priority and about(uid).back, handed)
      handed, bytes = handed + 1, bytes + size
      outcome[2 * handed + 2], outcome[2 * handed + 3] = uid, token
      count_delivery(uid, describe(reply, uid, token, payload, recorded, claim.suspected))
    end
  end

  while not held_up and handed < room and ghosts < GHOSTS_MOST do
    local uid, key, score
    if behind then
      uid, key, score = unpack(behind[handed + ghosts + 1] or {})
    else
      uid, key, score = pop(plain, some_priority)
    end
    if not uid then
      break
    end
    local size = handed > 0 and size_of(uid, recorded) or 0
    if bytes + size > MOST_BYTES then
      if not behind then
        put_back(uid, key, score)
      end
      break
    end
    if behind then
      take_off(uid, key)
    end
    local sound, failure = pcall(take, uid, key, score, size)
    if not sound then
      -- A key turned out to belong to something else: the uid goes back to where it was.
      put_back(uid, key, score)
      pcall(unhold, uid)
      error(failure)
    end
  end

  if claim.interval > 0 and handed > 0 then
    due = due + handed * claim.interval
    redis.call('HSET', meta, 'next_due', string.format('%.3f', due))
  end
  local left = redis.call('LLEN', queue)
  if not plain then
    left = left + redis.call('ZCARD', returned) + (some_priority and redis.call('ZCARD', priority) or 0)
  end
  local pass_on = behind and #behind == handed and ghosts == 0 and pass_on_suspect
  return {handed = handed, left = left, held_up = held_up, till = till, due = due, pass_on = pass_on}
end
