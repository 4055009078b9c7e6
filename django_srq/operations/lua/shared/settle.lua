-- Needs keys, begin, records.

-- Counts an item that was in hand until now, by the time (ms) of its claim; for an item that a saferedisqueue consumer
-- holds, that time is not known.
local function count_settled(token)
  local since = string.match(token, '@(%d+)')
  if since then
    count_time('run', now - since)
  else
    count('acked')
  end
end

-- The fast path of acks, for the common case: the uid was generated, no result is to be kept, the caller names the
-- delivery, somebody holds the item, and no item has records. Acks the items that ARGV names from an index on (uid, token,
-- number of the put), up to the first for which that does not hold; adds '1' to the flags for each. Returns the index of
-- that item.
-- settle_carefully does the same with items of the common case, and all others. Of an item at which this stops, either
-- nobody held it, and nothing has happened to it yet; or it has no payload, and loses its holder in both paths.
local function settle(at, flags)
  while ARGV[at] and ARGV[at + 1] ~= '' and ARGV[at + 2] == '' do
    local uid, token = ARGV[at], ARGV[at + 1]
    if redis.call('HDEL', holders, uid) == 0 or redis.call('HDEL', items, uid) == 0 then
      break
    end
    redis.call('ZREM', leases, uid)
    count_settled(token)
    flags[#flags + 1] = '1'
    at = at + 3
  end
  return at
end
