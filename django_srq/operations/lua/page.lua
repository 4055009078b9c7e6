#!lua flags=no-writes
-- A page of the items of one state, for people: without large payloads, from an anchor on.
-- ARGV[1]  state: ready, in_flight, delayed or dead; or one key of ready items: returned or priority
-- ARGV[2]  anchor: a position (beyond the end: that of the last page); or "a" (after) or "b" (before), a score, a space
--          and a uid: the page after, or before, the place of this uid, or the place where it was
-- ARGV[3]  count: items in the reply at most; ARGV[4] uids to look at, at most
-- ARGV[5]  newest: 1 to begin with the highest score (in the states with a time), else 0
-- ARGV[6]  largest: bytes of a payload in the reply at most
-- ARGV[7]  brief: 1 for empty payload, headers and error, else 0
-- ARGV[8]  group: only dead items of this group; '' for any
-- It stops looking once the reply has twice MOST_BYTES of payloads, headers and errors. Their contents decide nothing
-- except which items are in the group: otherwise people could conclude from how far it looked what is hidden from them.
-- Reply: the time (ms), the number of uids in that state, the position of the first uid that was looked at, how many
--   were looked at, the anchor of the next page ('' at the end), then per item: uid, payload ('' when it is too large),
--   its size, its score (as in peek), deliveries, crashes, headers, error, token ('' for none), position.
-- include: keys check_layout order most_bytes
local clock = redis.call('TIME')
local count, look, newest, largest = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1', tonumber(ARGV[6])
local brief, in_group = ARGV[7] == '1', ARGV[8] ~= '' and '"group":' .. cjson.encode(ARGV[8])

local function value(hash, uid)
  return redis.call('HGET', hash, uid) or ''
end

local order, size = sections[ARGV[1]](), 0
for _, section in ipairs(order) do
  size = size + section[1]
end

local function start()
  local how, score, uid = string.match(ARGV[2], '^([ab])(%S+) (%S+)$')
  if not how then
    local offset = tonumber(ARGV[2])
    return offset < size and offset or math.max(0, math.floor((size - 1) / count) * count)
  end
  local key = order[1][3]
  local rank = redis.call(newest and 'ZREVRANK' or 'ZRANK', key, uid)
  local place = rank
  if not rank then
    place = redis.call('ZCOUNT', key, newest and '(' .. score or '-inf', newest and '+inf' or '(' .. score)
    for _, other in ipairs(redis.call('ZRANGE', key, score, score, 'BYSCORE', 'LIMIT', 0, 1000)) do
      if newest and other > uid or not newest and other < uid then
        place = place + 1
      end
    end
  end
  if how == 'b' then
    return math.max(0, place - count)
  end
  return rank and rank + 1 or place
end

local first = start()
local looked, anchor = 0, ''
local reply = {string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000)), size, first, 0, ''}

local bytes = 0

local function show(uid, score, from_list, position)
  if not is_there(uid, from_list) then
    return 0
  end
  local length = redis.call('HSTRLEN', items, uid)
  local error = (in_group or not brief) and value(errors, uid) or ''
  if in_group and not string.find(error, in_group, 1, true) then
    return 0
  end
  local payload = not brief and length <= largest and value(items, uid) or ''
  local about_it = brief and '' or value(headers, uid)
  bytes = bytes + #payload + #about_it + #error
  for _, part in ipairs({uid, payload, length, score, value(deliveries, uid), value(crashes, uid), about_it,
    brief and '' or error, value(holders, uid), position}) do
    reply[#reply + 1] = part
  end
  return 1
end

-- Reads a page at a time, so that nothing is read in vain once the page is full.
local shown, skipped = 0, 0
for _, section in ipairs(order) do
  while shown < count and bytes < 2 * MOST_BYTES and looked < look and first + looked >= skipped and first + looked < skipped + section[1] do
    local from = first + looked - skipped
    local to = math.min(section[1], from + math.min(count, look - looked)) - 1
    local found, from_list
    if newest then
      local key = section[3]
      found = redis.call('ZRANGE', key, from, to, 'REV', 'WITHSCORES')
    else
      found, from_list = section[2](from, to)
    end
    for i = 1, #found, 2 do
      if shown < count and bytes < 2 * MOST_BYTES then
        shown = shown + show(found[i], found[i + 1], from_list, first + looked)
        looked = looked + 1
        anchor = ARGV[1] == 'ready' and string.format('%.0f', first + looked) or 'a' .. found[i + 1] .. ' ' .. found[i]
      end
    end
  end
  skipped = skipped + section[1]
end
if first + looked >= size then
  anchor = ''
end
reply[4], reply[5] = looked, anchor
return reply
