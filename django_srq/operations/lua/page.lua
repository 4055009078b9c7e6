#!lua flags=no-writes
-- A page of the items of one state, without taking them.
-- ARGV[1]  state: ready, in_flight, delayed or dead; or one key of ready items: returned or priority
-- ARGV[2]  anchor: a position (beyond the end: that of the last page); or "from", a space and a position (beyond the
--          end: nothing); or "a" (after) or "b" (before), a score, a space and a uid: the page after, or before, the
--          place of this uid, or the place where it was
-- ARGV[3]  count: items in the reply at most; ARGV[4] uids to look at, at most
-- ARGV[5]  newest: 1 to begin with the highest score (in the states with a time), else 0
-- ARGV[6]  largest: bytes of a payload in the reply at most; -1: any number
-- ARGV[7]  detail: "all"; or "last", for the last error only; or "headers", for empty payload, error and group; or
--          "none", for empty headers, too
-- ARGV[8]  most_bytes: bytes of payloads, headers and errors in the reply at most, besides those of its first item
-- ARGV[9]  group: only dead or retrying items of this group; '' for any
-- Contents decide nothing except which items are in the group: otherwise people could conclude from how far it looked
-- what is hidden from them.
-- Reply: the time (ms), the number of uids in that state, the position of the first uid that was looked at, how many
--   were looked at, the anchor of the next page ('' at the end), then per item: uid, payload ('' when it is too large),
--   its size, its score (its place in the order of ready items; or its due time, deadline or time of death in ms),
--   deliveries, crashes, headers, errors (the last one, with those before it as "earlier"), the group in which it is
--   retrying ('' for none), token ('' for none), position.
-- Ghosts are left out, so that a page with fewer items than asked for need not be the last.
-- include: keys check_layout clock records order
local count, look, newest, largest = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1', tonumber(ARGV[6])
local detail, most_bytes, group = ARGV[7], tonumber(ARGV[8]), ARGV[9]
local in_group = group ~= '' and '"group":' .. cjson.encode(group)
local has_error = detail == 'all' or detail == 'last'

local function value(hash, uid)
  return redis.call('HGET', hash, uid) or ''
end

local sections, size = sections_of(ARGV[1]), 0
for _, section in ipairs(sections) do
  size = size + section[1]
end

-- The position of a uid from the beginning, or of the place where it was; and whether it is still there.
local function place_of(key, score, uid)
  local rank = redis.call('ZRANK', key, uid)
  if rank then
    return newest and redis.call('ZCARD', key) - 1 - rank or rank, true
  end
  local place = redis.call('ZCOUNT', key, newest and '(' .. score or '-inf', newest and '+inf' or '(' .. score)
  for _, other in ipairs(redis.call('ZRANGE', key, score, score, 'BYSCORE', 'LIMIT', 0, 1000)) do
    if newest and other > uid or not newest and other < uid then
      place = place + 1
    end
  end
  return place, false
end

local function start()
  local how, score, uid = string.match(ARGV[2], '^([ab])(%S+) (%S+)$')
  if how then
    local place, there = place_of(sections[1][3], score, uid)
    return how == 'b' and math.max(0, place - count) or there and place + 1 or place
  end
  local position = string.match(ARGV[2], '^from (%d+)$')
  if position then
    return tonumber(position)
  end
  local offset = tonumber(ARGV[2])
  return offset < size and offset or math.max(0, math.floor((size - 1) / count) * count)
end

local first = start()
local looked, shown, bytes, full, anchor = 0, 0, 0, false, ''
local reply = {string.format('%.0f', (server_time())), size, first, 0, ''}

-- Adds an item to the reply, unless that makes it too large: then it is full.
local function show(uid, score, from_list)
  if not is_there(uid, from_list) then
    return
  end
  local failure = (in_group or has_error) and value(errors, uid) or ''
  local retries = ARGV[1] == 'delayed' and (in_group or has_error) and value(retrying, uid) or ''
  if in_group and retries ~= group and not (ARGV[1] == 'dead' and string.find(failure, in_group, 1, true)) then
    return
  end
  failure = has_error and failure or ''
  failure = detail == 'last' and without_earlier(failure) or failure
  local length = redis.call('HSTRLEN', items, uid)
  local has_payload = has_error and (largest < 0 or length <= largest)
  local about_it = detail ~= 'none' and value(headers, uid) or ''
  if shown > 0 then
    bytes = bytes + (has_payload and length or 0) + #about_it + #failure
    full = bytes > most_bytes
  end
  if not full then
    for _, part in ipairs({uid, has_payload and value(items, uid) or '', length, score, value(deliveries, uid),
      value(crashes, uid), about_it, failure, has_error and retries or '', value(holders, uid), first + looked}) do
      reply[#reply + 1] = part
    end
    shown = shown + 1
  end
end

-- Reads a page at a time, so that nothing is read in vain once the page is full.
local skipped = 0
for _, section in ipairs(sections) do
  local listed, range, key = section[1], section[2], section[3]
  while shown < count and not full and looked < look and first + looked >= skipped and first + looked < skipped + listed do
    local from = first + looked - skipped
    local to = math.min(listed, from + math.min(count, look - looked)) - 1
    local found, from_list
    if newest then
      found = redis.call('ZRANGE', key, from, to, 'REV', 'WITHSCORES')
    else
      found, from_list = range(from, to)
    end
    for i = 1, #found, 2 do
      if shown < count and not full then
        show(found[i], found[i + 1], from_list)
        if not full then
          looked = looked + 1
          anchor = ARGV[1] == 'ready' and string.format('%.0f', first + looked) or 'a' .. found[i + 1] .. ' ' .. found[i]
        end
      end
    end
  end
  skipped = skipped + listed
end
if first + looked >= size then
  anchor = ''
end
reply[4], reply[5] = looked, anchor
return reply
