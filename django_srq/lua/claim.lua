#!lua flags=allow-oom
-- Acks what the caller finished, does the housekeeping, and hands out up to n items, in one round trip.
-- ARGV[3]  consumer: first part of the tokens; "c…" supervised (renews its leases), "g…" a plain get
-- ARGV[4]  lease (ms); negative: these leases are never recovered automatically
-- ARGV[5]  lease (ms) of what saferedisqueue's consumers hold; negative as above
-- ARGV[6]  n: most items to hand out; 0: only ack
-- ARGV[7]  max_deliveries, 0: any number; ARGV[8] max_crashes, 0: any number; for leases that ended
-- ARGV[9]  about: JSON object of this consumer, or '' to leave its entry as it is
-- ARGV[10…] per item to ack: uid, token ('': by whoever holds it), number of the put ('': a generated uid)
-- Reply: the acks' flags (1: this call removed it), the time (ms) until something becomes ready by itself (-1: nothing
--   will; 0: ask again at once), then per item handed out: uid, token, payload, deliveries, headers ('' for none).
-- A repeated call gets the same items again, their leases renewed, as far as the caller still holds them.
-- include: keys call items ghosts housekeeping
local GHOSTS_MOST = 100
local consumer, lease, n = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[6])
local deadline = lease < 0 and lease - now or now + lease

local function describe(reply, uid, token, payload)
  reply[#reply + 1] = uid
  reply[#reply + 1] = token
  reply[#reply + 1] = payload
  reply[#reply + 1] = deliveries_of(uid) + 1
  reply[#reply + 1] = redis.call('HGET', headers, uid) or ''
end

if repeated then
  local flags, wait, taken = string.match(repeated, '^(%S*) (%S+)(.*)$')
  local reply = {flags, wait}
  for uid, token in string.gmatch(taken, ' (%S+) (%S+)') do
    local payload = redis.call('HGET', items, uid)
    if payload and redis.call('HGET', holders, uid) == token then
      redis.call('ZADD', leases, deadline, uid)
      describe(reply, uid, token, payload)
    end
  end
  return reply
end

local kind = 'lease_' .. string.sub(consumer, 1, 1)
local length = math.abs(lease)
if facts[kind] ~= length then
  facts[kind] = length
  redis.call('HSET', meta, kind, length)
end
if length > (facts.longest or 0) then
  facts.longest = length
  redis.call('HSET', meta, 'longest', length)
end

local flags = {}
for i = 10, #ARGV, 3 do
  flags[#flags + 1] = settle(ARGV[i], ARGV[i + 1], ARGV[i + 2])
end
if ARGV[9] ~= '' then
  redis.call('HSET', consumers, consumer, '{"seen":' .. now .. ',' .. string.sub(ARGV[9], 2))
end

local function is_paused()
  local text = redis.call('GET', paused)
  local till = text and cjson.decode(text)['until']
  if till and till <= now then
    redis.call('DEL', paused)
    return false
  end
  return text and true, till
end

keep_house(tonumber(ARGV[5]))
local made = recover_ended(tonumber(ARGV[7]), tonumber(ARGV[8]))
-- Mostly there is nothing but the list: asked once, instead of each of these for itself.
local plain = redis.call('EXISTS', returned, priority, delayed, dead, paused) == 0
local some_priority, held_up, till = false, false, nil
if not plain then
  made = made + promote_due()
  some_priority = redis.call('ZCARD', priority) > 0
  held_up, till = is_paused()
end

-- Takes the next uid off what is ready; returns it, the key that it was in, and its score there.
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

local function hand_out(uid, first)
  local order = redis.call('HINCRBY', meta, 'order', 1)
  local token = consumer .. '/' .. string.format('%.0f@%.0f', order, now)
  if first then
    token = token .. '/' .. first
  end
  redis.call('ZADD', leases, deadline, uid)
  redis.call('HSET', holders, uid, token)
  return token
end

-- Counts a delivery; the first one by how long the item had waited, since its put or since it was due. When that was, a
-- generated uid says with its first 48 bits (RFC 9562, 5.7), by the producer's clock.
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

local taken, reply = {}, {table.concat(flags), '-1'}
local ghosts = 0
while not held_up and #taken < n and ghosts < GHOSTS_MOST do
  local uid, key, score = pop()
  if not uid then
    break
  end
  local sound, failure = pcall(function()
    local payload = redis.call('HGET', items, uid)
    if is_ghost(uid, payload, key == queue, plain) then
      if key == queue then
        lay_ghost()
      end
      ghosts = ghosts + 1
    else
      local token = hand_out(uid, key == returned and score or some_priority and about(uid).back)
      taken[#taken + 1] = uid .. ' ' .. token
      describe(reply, uid, token, payload)
      count_delivery(uid, reply[#reply - 1], reply[#reply])
    end
  end)
  if not sound then
    -- A key turned out to be somebody else's: the uid goes back to where it was.
    if key == queue then
      redis.call('RPUSH', queue, uid)
    else
      redis.call('ZADD', key, score, uid)
    end
    pcall(unhold, uid)
    error(failure)
  end
end

local left = redis.call('LLEN', queue)
if not plain then
  left = left + redis.call('ZCARD', returned) + (some_priority and redis.call('ZCARD', priority) or 0)
end
local wait = -1
if held_up then
  wait = till and math.max(10, till - now) or -1
elseif left > 0 then
  wait = 0
  -- The baton: whoever leaves something sees to it that somebody comes.
  ring(math.max(math.min(made - #taken, left), redis.call('LLEN', wake) == 0 and 1 or 0))
else
  redis.call('DEL', wake)
  wait = #taken == 0 and next_event() or 0
end
reply[2] = string.format('%.0f', wait)
finish(table.concat({reply[1], reply[2], unpack(taken)}, ' '))
return reply
