#!lua flags=no-writes
-- Looks at items of one state without taking them, from a position on.
-- ARGV[1]  state: ready, in_flight, delayed or dead; or one key of ready items: returned or priority
-- ARGV[2]  offset, ARGV[3] count: how many uids to look at
-- ARGV[4]  brief: 1 for empty payload and error, else 0
-- A reply has at most MOST_BYTES of payloads, headers and errors besides those of its first item.
-- Reply: the next offset (-1: no more), the time (ms), then per item: uid, payload, its score (its place in the order
--   of ready items; or its due time, deadline or time of death in ms), deliveries, crashes, headers, error, token (''
--   for none).
-- Ghosts are left out, so that a reply with fewer items than asked for need not be the last.
-- include: keys check_layout order most_bytes
local clock = redis.call('TIME')
local offset, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local reply = {'-1', string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))}

local function value(hash, uid)
  return redis.call('HGET', hash, uid) or ''
end

local brief, bytes, full = ARGV[4] == '1', 0, false

local function size_of(uid)
  local size = redis.call('HSTRLEN', headers, uid)
  return brief and size or size + redis.call('HSTRLEN', items, uid) + redis.call('HSTRLEN', errors, uid)
end

-- Adds an item to the reply, unless that makes it too large: then it is full.
local function show(uid, score, from_list)
  if not is_there(uid, from_list) then
    return
  end
  if #reply > 2 then
    bytes = bytes + size_of(uid)
    full = bytes > MOST_BYTES
  end
  if not full then
    for _, part in ipairs({uid, brief and '' or value(items, uid), score, value(deliveries, uid), value(crashes, uid),
      value(headers, uid), brief and '' or value(errors, uid), value(holders, uid)}) do
      reply[#reply + 1] = part
    end
  end
end

local skipped, looked = 0, 0
for _, section in ipairs(sections[ARGV[1]]()) do
  local size, range = section[1], section[2]
  local from = math.max(0, offset - skipped)
  if from < size and looked < most and not full then
    local found, from_list = range(from, math.min(size, from + most - looked) - 1)
    for i = 1, #found, 2 do
      show(found[i], found[i + 1], from_list)
      if full then
        break
      end
      looked = looked + 1
    end
  end
  skipped = skipped + size
end
if looked > 0 and offset + looked < skipped then
  reply[1] = string.format('%.0f', offset + looked)
end
return reply
