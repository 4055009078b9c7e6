-- Acks what ARGV names from at on. Needs keys, call, records; at; recorded: whether any item may have records.
-- Leaves behind: flags (per item '1' if it was there, else '0').

-- Counts an item that was in hand until now, by the time (ms) of its claim; nobody knows that of what a saferedisqueue
-- consumer holds.
local function count_settled(token)
  local since = string.match(token, '@(%d+)')
  if since then
    count_time('run', now - since)
  else
    count('acked')
  end
end

-- The straight way, for what is so mostly: nothing is recorded of any item, its uid was generated, the caller names its
-- delivery, and somebody holds it. With such an item the careful way does the same; it also goes on with one that turns out
-- not to be so: held by nobody, nothing has happened to it yet; without a payload, it has no holder any more either way.
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

  -- Acks one item. By token ('': by whoever holds it) and number of the put ('': a generated uid): the work is done,
  -- wherever the item is now, but only that of the put which the caller was given. Counts it.
  -- Returns '1' if it was there, else '0'.
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
    -- The payload goes first: should a key turn out to be somebody else's, what is left is dropped on contact.
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
