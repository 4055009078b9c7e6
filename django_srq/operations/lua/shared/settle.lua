-- Acks the items that ARGV names from the index at on. Needs keys, begin, records; at; recorded: whether any item may
-- have records. Leaves behind: flags (per item '1' if it was there, else '0').

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

-- The fast path, for the common case: no item has records, the uid was generated, the caller names the delivery, and
-- somebody holds the item. The careful path below does the same with such an item. It also takes over when an item
-- turns out to be different: if nobody holds it, nothing has happened to it yet; if it has no payload, it loses its
-- holder in both paths.
local flags = {}
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
  -- include: removal

  -- Acks one item, by token ('': any holder's) and number of the put ('': the uid was generated), and counts it. The
  -- work is done, wherever the item is now; but an item that was put anew with the same uid has another number, and
  -- stays. Returns '1' if the item was there, else '0'.
  local function settle(uid, token, number)
    if token == '' then
      token = redis.call('HGET', holders, uid)
      if not token then
        return '0'
      end
    elseif (recorded or number ~= '') and tostring(about(uid).number or '') ~= number then
      return '0'
    end
    if unhold(uid) == 0 and redis.call('HEXISTS', items, uid) == 1 then
      remove_unheld(uid)
      count('acked')
      return '1'
    end
    -- The payload is deleted first: if a key turns out to belong to something else, the rest is dropped when a claim
    -- meets it.
    local there = redis.call('HDEL', items, uid) == 1
    if recorded then
      delete_records(uid)
    end
    if not there then
      forget(uid)
      return '0'
    end
    count_settled(token)
    return '1'
  end

  for i = at, #ARGV, 3 do
    flags[#flags + 1] = settle(ARGV[i], ARGV[i + 1], ARGV[i + 2])
  end
end
