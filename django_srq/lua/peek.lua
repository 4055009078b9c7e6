#!lua flags=no-writes
-- Looks at items of one state without taking them, from a position on.
-- ARGV[1]  state: ready, in_flight, delayed or dead; or a place of what is ready: returned or priority
-- ARGV[2]  offset, ARGV[3] count: how many uids to look at
-- Reply: the next offset (-1: no more), the time (ms), then per item: uid, payload, a number (its place in the order of
--   claims, its due time, deadline or time of death in ms), deliveries, crashes, headers, error, token ('' for none).
-- Ghosts are left out, so that fewer items than asked for do not mean the end.
-- include: keys layout
local clock = redis.call('TIME')
local offset, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local reply = {'-1', string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))}

local function value(hash, uid)
  return redis.call('HGET', hash, uid) or ''
end

local function show(uid, score, from_list)
  local payload = redis.call('HGET', items, uid)
  if not payload or from_list and (redis.call('HEXISTS', holders, uid) == 1 or redis.call('ZSCORE', delayed, uid)
    or redis.call('ZSCORE', dead, uid) or redis.call('ZSCORE', returned, uid) or redis.call('ZSCORE', priority, uid)) then
    return
  end
  for _, part in ipairs({uid, payload, score, value(deliveries, uid), value(crashes, uid), value(headers, uid),
    value(errors, uid), value(holders, uid)}) do
    reply[#reply + 1] = part
  end
end

-- A section of the order is {number of uids, function(from, to) -> uids and scores}.
local function zset(key, low, high)
  local first = low == '-inf' and 0 or redis.call('ZCOUNT', key, '-inf', '(0')
  return {redis.call('ZCOUNT', key, low, high), function(from, to)
    return redis.call('ZRANGE', key, first + from, first + to, 'WITHSCORES')
  end}
end

local function list()
  return {redis.call('LLEN', queue), function(from, to)
    local uids, pairs_ = redis.call('LRANGE', queue, -to - 1, -from - 1), {}
    for i = #uids, 1, -1 do
      pairs_[#pairs_ + 1] = uids[i]
      pairs_[#pairs_ + 1] = '0'
    end
    return pairs_, true
  end}
end

local sections = {
  ready = function()
    return {zset(priority, '-inf', '(0'), zset(returned, '-inf', '+inf'), list(), zset(priority, '(0', '+inf')}
  end,
  returned = function() return {zset(returned, '-inf', '+inf')} end,
  priority = function() return {zset(priority, '-inf', '+inf')} end,
  in_flight = function() return {zset(leases, '-inf', '+inf')} end,
  delayed = function() return {zset(delayed, '-inf', '+inf')} end,
  dead = function() return {zset(dead, '-inf', '+inf')} end,
}

local skipped, looked = 0, 0
for _, section in ipairs(sections[ARGV[1]]()) do
  local size, range = section[1], section[2]
  local from = math.max(0, offset - skipped)
  if from < size and looked < most then
    local found, from_list = range(from, math.min(size, from + most - looked) - 1)
    for i = 1, #found, 2 do
      show(found[i], found[i + 1], from_list)
      looked = looked + 1
    end
  end
  skipped = skipped + size
end
if looked > 0 and offset + looked < skipped then
  reply[1] = string.format('%.0f', offset + looked)
end
return reply
