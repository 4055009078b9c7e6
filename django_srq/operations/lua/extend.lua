#!lua flags=allow-oom
-- Makes leases last longer, counted from now. Takes back an item whose lease ended, if nobody has taken it since.
-- ARGV[3]  lease (ms); negative: the lease of an item that is taken back is never recovered automatically; other leases
--          remain what they are in this respect
-- ARGV[4]  consumer and ARGV[5] about: JSON object that describes the consumer; '' leaves its entry as it is
-- ARGV[6]  slots of claims whose replies were not read yet, separated by spaces: extends also the items that the last
--          claim in each slot took
-- ARGV[7…] per item: uid, token ('': any holder's)
-- Reply: per item a flag, 1 when its lease now lasts that long, else 0: the caller does not hold the item any more.
-- include: keys begin wake records removal lifecycle claimed
if repeated then
  return repeated
end
local lease = math.abs(tonumber(ARGV[3]))
if lease > (facts.longest or 0) then
  redis.call('HSET', meta, 'longest', lease)
end
if ARGV[5] ~= '' then
  redis.call('HSET', consumers, ARGV[4], '{"seen":' .. now .. ',' .. string.sub(ARGV[5], 2))
end

-- Whether the item is ready again because the lease of this very delivery ended, and nobody has taken it since.
local function lapsed(uid, token)
  local waits = redis.call('ZSCORE', returned, uid)
  local first = waits and tonumber(waits) or redis.call('ZSCORE', priority, uid) and about(uid).back
  local _, claim = deliveries_of(uid)
  return first == first_claim(token) and claim == claim_of(token)
end

local function take_back(uid, token)
  redis.call('ZREM', returned, uid)
  redis.call('ZREM', priority, uid)
  redis.call('HSET', deliveries, uid, deliveries_of(uid) - 1 .. ' 0')
  if redis.call('HEXISTS', crashes, uid) == 1 and string.sub(token, 1, 1) == 'c'
    and redis.call('HINCRBY', crashes, uid, -1) <= 0 then
    redis.call('HDEL', crashes, uid)
  end
  redis.call('HSET', holders, uid, token)
end

local function extend(uid, token)
  local holder = redis.call('HGET', holders, uid)
  local holds = holder and (token == '' or holder == token)
  if not holds and not holder and token ~= '' and redis.call('HEXISTS', items, uid) == 1
    and lapsed(uid, token) then
    take_back(uid, token)
    holds = true
  end
  if holds then
    local never = tonumber(redis.call('ZSCORE', leases, uid) or ARGV[3]) < 0
    redis.call('ZADD', leases, never and -(now + lease) or now + lease, uid)
  end
  return holds and '1' or '0'
end

for slot in string.gmatch(ARGV[6], '%S+') do
  local known = redis.call('HGET', slots, slot)
  if known then   -- the slot was used just now: housekeeping must not trim it
    redis.call('HSET', slots, slot, (string.gsub(known, '^(%d+) %d+', '%1 ' .. now, 1)))
  end
  for uid, token in taken_by(known) do
    extend(uid, token)
  end
end
local flags = {}
for i = 7, #ARGV, 2 do
  flags[#flags + 1] = extend(ARGV[i], ARGV[i + 1])
end
return finish(table.concat(flags))
