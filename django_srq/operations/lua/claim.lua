#!lua flags=allow-oom
-- Acks the items that the caller finished, does the housekeeping, and hands out up to n items, in one round trip.
-- ARGV[3]  consumer: the first part of the tokens; "c…": supervised (its leases are renewed), "g…": a plain get; then,
--          where it is known, "+" and how many items the consumer may have begun at one time
-- ARGV[4]  lease (ms); ARGV[5] lease (ms) of the items that saferedisqueue's consumers hold
-- ARGV[6]  recovers: 1 if these leases are recovered when they have ended; 0: never automatically
-- ARGV[7]  n: items to hand out at most; 0: only ack; negative: only ack, and if this call is a repeat, give back the
--          items that the original handed out; -1: to their old places; -2: the caller could not read the reply: as -1,
--          but if there was a single item, it has failed, and goes to the back or is dead
-- ARGV[8]  max_deliveries, 0: any number; ARGV[9] max_crashes, 0: any number; for items whose leases ended
-- ARGV[10] max_in_flight: items in flight at most, across all consumers; 0: any number; -1: no limit for this claim
-- ARGV[11] interval (ms, may have a fraction) from one item to the next, across all consumers; 0: no such limit
-- ARGV[12…] per item to ack: uid, token, number of the put and the result: as in ack.lua
-- Reply: the acks' flags (1: this call removed the item), the time (ms) until it is worth asking again (-1: no known
--   moment; 0: ask again at once, also when all n items were handed out), how many ready items only the limits hold up,
--   then per item handed out: uid, token, payload, deliveries (a number, or the text "deliveries crashes"), headers (''
--   for none).
-- A reply has at most MOST_BYTES of payloads and headers besides those of its first item; more may be ready then (0).
-- A suspect is an item that was in hand when a consumer died. It is handed out alone. A consumer that holds a suspect
--   gets no other suspect for a while, but the items behind it. When only suspects are left, they count as held up.
-- A repeated call gets the same items again, their leases renewed, as far as the caller still holds them.
-- include: keys begin wake records leases due handing_out most_bytes
local consumer, width = string.match(ARGV[3], '^([^+]*)(.*)$')
local lease, recovers, n = tonumber(ARGV[4]), ARGV[6] == '1', math.max(0, tonumber(ARGV[7]))
local max_deliveries, max_crashes = tonumber(ARGV[8]), tonumber(ARGV[9])
local max_in_flight, interval = tonumber(ARGV[10]), tonumber(ARGV[11])
local deadline = deadline_of(lease, recovers)

-- In the common case only the list has items, and no item has records. One command finds that out, instead of many.
-- Returns plain: all items are on the list or in flight, and the queue is not paused; recorded: some item has records;
-- suspected: some item has crashes.
local function look_around()
  if redis.call('EXISTS', returned, priority, delayed, dead, paused, deliveries, crashes, errors, headers) == 0 then
    return true, false, false
  end
  local recorded = has_records()
  local suspected = recorded and redis.call('EXISTS', crashes) == 1
  return redis.call('EXISTS', returned, priority, delayed, dead, paused) == 0, recorded, suspected
end
local plain, recorded, suspected = look_around()

if repeated then
  -- include: removal lifecycle claim_again
  return claim_again(repeated, consumer, tonumber(ARGV[7]), max_deliveries, deadline, recorded, suspected)
end

-- Later calls use these facts about this claim.
-- The comment at the end of the next line is needed: scripts.py finds in it which fields of meta to read.
local kind = 'lease_' .. string.sub(consumer, 1, 1)   -- facts.lease_c or facts.lease_g
if facts[kind] ~= lease then
  facts[kind] = lease
  redis.call('HSET', meta, kind, lease)
end
if lease > (facts.longest or 0) then
  facts.longest = lease
  redis.call('HSET', meta, 'longest', lease)
end
if max_in_flight > 0 and facts.most ~= max_in_flight then
  facts.most = max_in_flight
  redis.call('HSET', meta, 'most', max_in_flight)
elseif max_in_flight == 0 and facts.most then
  facts.most = nil
  redis.call('HDEL', meta, 'most')
end
if facts.told then
  -- include: look arrive
  arrive(consumer)
end

local flags = {}
if ARGV[12] then
  -- include: settle
  local at = recorded and 12 or settle(12, flags)
  if ARGV[at] and not recorded and string.find(ARGV[at + 2], '^ ') then
    -- include: settle_kept
    at = settle_kept(at, flags)
  end
  if ARGV[at] then
    -- include: removal settle_carefully
    settle_carefully(at, flags, recorded)
  end
end

local reply, outcome = {'', '0', '0'}, {'', '0', '0'}   -- outcome: for a repeat of this call
local chores, ended = is_due(), redis.call('ZCOUNT', leases, 0, now) > 0
local handed, left = 0, 0   -- items that were handed out, and ready items that are left

-- The fast path, for the common case: only the list has ready items, nothing else is to be made ready, nothing limits
-- this claim, and the next items on the list are nowhere else. It checks all of them before it changes anything. With
-- such items, the careful path does the same, one by one.
local fast = not (chores or ended) and max_in_flight <= 0 and interval == 0 and (plain
  or redis.call('EXISTS', returned, priority, paused) == 0 and redis.call('ZCOUNT', delayed, '-inf', now) == 0)
if fast then
  local uids = redis.call('LRANGE', queue, -n - 1, -1)   -- the last is the next; one more than n shows if any are left
  local first, bytes = #uids > n and 2 or 1, 0
  for i = #uids - 1, first, -1 do   -- the next item goes out, whatever its size
    bytes = bytes + size_of(uids[i], recorded)
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
      fast = fast and payloads[i] and not (holder[i] or waits[i] or died[i] or suspects[i] or seen[uid])
      seen[uid] = true
    end
    if fast then
      local order, scores = redis.call('HINCRBY', meta, 'order', number) - number, {}
      for i = number, 1, -1 do
        local uid = uids[first + i - 1]
        local token = token_of(consumer, width, order + handed + 1)
        local place = 2 * handed
        scores[place + 1], scores[place + 2] = deadline + handed / 2048, uid
        outcome[place + 4], outcome[place + 5] = uid, token
        handed = handed + 1
        count_delivery(uid, describe(reply, uid, token, payloads[i], recorded, suspected))
      end
      redis.call('ZADD', leases, unpack(scores))
      redis.call('HSET', holders, unpack(outcome, 4))
      redis.call('LTRIM', queue, 0, -number - 1)
    end
  end
  left = first - 1
end

local wait, held_up = 0, 0   -- what the caller is told
if fast and left > 0 then
  ring(redis.call('LLEN', wake) == 0 and 1 or 0)   -- pass on the baton, as in next_look
elseif fast then
  -- include: look next_look
  wait, held_up = next_look(consumer, n, max_in_flight, interval, {made = 0, handed = handed, left = left})
else
  -- The careful path, for all other cases.
  -- include: removal lifecycle ghosts suspects claim_carefully
  local made = 0   -- items that become ready by this call
  if chores or ended or not plain then
    -- include: housekeeping
    if chores then
      keep_house(tonumber(ARGV[5]), recovers)
    end
    made = recover_ended(max_deliveries, max_crashes) + promote_due()
    plain, recorded, suspected = look_around()
  end
  local taken = claim_carefully({
    consumer = consumer, width = width, n = n, deadline = deadline, max_in_flight = max_in_flight, interval = interval,
    plain = plain, recorded = recorded, suspected = suspected,
  }, reply, outcome)
  taken.made = made
  -- include: look next_look
  wait, held_up = next_look(consumer, n, max_in_flight, interval, taken)
end
reply[1] = table.concat(flags)
outcome[1] = reply[1]
if wait ~= 0 then
  reply[2] = string.format('%.0f', wait)
  outcome[2] = reply[2]
end
reply[3], outcome[3] = held_up, held_up
finish(table.concat(outcome, ' '))
return reply
