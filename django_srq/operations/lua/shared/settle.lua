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

-- Acks the items that ARGV names from an index on: uid, token ('': any holder's), number of the put ('': the uid was
-- generated). recorded: whether any item may have records. Returns per item '1' if it was there, else '0'.
local function settle(at, recorded)
  local flags = {}
  -- The fast path, for the common case: no item has records, the uid was generated, the caller names the delivery, and
  -- somebody holds the item. The careful path does the same with such an item. It also takes over when an item turns
  -- out to be different: if nobody holds it, nothing has happened to it yet; if it has no payload, it loses its holder
  -- in both paths.
  while not recorded and ARGV[at] and ARGV[at + 1] ~= '' and ARGV[at + 2] == '' do
    local uid, token = ARGV[at], ARGV[at + 1]
    if redis.call('HDEL', holders, uid) == 0 or redis.call('HDEL', items, uid) == 0 then
      break
    end
    redis.call('ZREM', leases, uid)
    count_settled(token)
    flags[#flags + 1] = '1'
    at = at + 3
  end
  if ARGV[at] then
    -- include: removal settle_carefully
    for i = at, #ARGV, 3 do
      flags[#flags + 1] = settle_carefully(ARGV[i], ARGV[i + 1], ARGV[i + 2], recorded) and '1' or '0'
    end
  end
  return table.concat(flags)
end
