#!lua flags=allow-oom
-- Makes leases last longer, counted from now. Takes back an item whose lease ended, if nobody has taken it since.
-- ARGV[3]  lease (ms)
-- ARGV[4]  recovers: 1 if the lease of an item that is taken back is recovered when it has ended; 0: never automatically;
--          other leases remain what they are in this respect
-- ARGV[5]  consumer and ARGV[6] about: JSON object that describes the consumer; '' leaves its entry as it is
-- ARGV[7]  slots of claims whose replies were not read yet, separated by spaces: extends also the items that the last
--          claim in each slot took
-- ARGV[8…] per item: uid, token ('': any holder's)
-- Reply: per item a flag, 1 when its lease now lasts that long, else 0: the caller does not hold the item any more.
-- include: keys begin wake records removal lifecycle leases claimed flags
if repeated then
  return repeated
end
local lease, recovers = tonumber(ARGV[3]), ARGV[4] == '1'
if lease > (facts.longest or 0) then
  redis.call('HSET', meta, 'longest', lease)
end
if ARGV[6] ~= '' then
  redis.call('HSET', consumers, ARGV[5], '{"seen":' .. now .. ',' .. string.sub(ARGV[6], 2))
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
  local holds = holder_of(uid, token)
  if not holds and token ~= '' and redis.call('HEXISTS', holders, uid) == 0
    and redis.call('HEXISTS', items, uid) == 1 and lapsed(uid, token) then
    take_back(uid, token)
    holds = true
  end
  if holds then
    local deadline = redis.call('ZSCORE', leases, uid)
    redis.call('ZADD', leases, deadline_of(lease, deadline and tonumber(deadline) >= 0 or not deadline and recovers), uid)
  end
  return holds
end

for slot in string.gmatch(ARGV[7], '%S+') do
  local known = redis.call('HGET', slots, slot)
  if known then   -- the slot was used just now: housekeeping must not trim it
    redis.call('HSET', slots, slot, (string.gsub(known, '^(%d+) %d+', '%1 ' .. now, 1)))
  end
  for uid, token in taken_by(known) do
    extend(uid, token)
  end
end
local flags = flag_each(8, 2, extend)
return finish(flags)
