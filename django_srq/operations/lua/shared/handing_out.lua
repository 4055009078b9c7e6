-- What both paths of a claim do with each item. Needs keys, begin, records.

local function token_of(consumer, width, order)
  return consumer .. string.format('/%d@%d', order, now) .. width
end

-- The bytes that an item adds to the reply. recorded: whether any item has records.
local function size_of(uid, recorded)
  return redis.call('HSTRLEN', items, uid) + (recorded and redis.call('HSTRLEN', headers, uid) or 0)
end

-- Adds an item to the reply; returns the number of this delivery, the item's headers, and since when it waits, where that
-- was noted. recorded, suspected: whether any item has records, or crashes.
local function describe(reply, uid, token, payload, recorded, suspected)
  local n = #reply
  local delivery = recorded and deliveries_of(uid) + 1 or 1
  local about_it = recorded and redis.call('HGET', headers, uid) or ''
  local died = suspected and redis.call('HGET', crashes, uid)
  local ends = died and delivery .. ' ' .. died or delivery
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4], reply[n + 5] = uid, token, payload, ends, about_it
  return delivery, about_it, recorded and redis.call('HGET', waiting, uid)
end

-- Counts a delivery; the first one of an item (since it was requeued, if it was) together with the time that the item
-- waited, since it was requeued, due, or put. A pause counts as waiting. A generated uid has the time of its put, by the
-- producer's clock, in its first 48 bits (RFC 9562, 5.7).
local function count_delivery(uid, deliveries, about_it, noted)
  local began
  if deliveries > 1 then
    began = nil
  elseif noted then
    began = tonumber(noted)
  elseif about_it ~= '' then
    local known = cjson.decode(about_it)
    began = known.due or known.time
  elseif string.sub(uid, 15, 15) == '7' then
    began = tonumber(string.sub(uid, 1, 8) .. string.sub(uid, 10, 13), 16)
  end
  if began then
    count_time('wait', now - began)
  else
    count('delivered')
  end
end
