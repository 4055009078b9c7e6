-- Acks what ARGV names from at on, as long as it is as mostly: nothing is recorded of any item (recorded is false), its uid was
-- generated, the caller names its delivery, and somebody holds it. Needs keys, call.
-- Leaves behind: flags (per item acked: '1'), at (the first that is not so, if any: it and what follows go through settle),
-- count_settled(token).
-- For such an item settle comes down to the same commands; it finds what is left of one for which only the first was done
-- as if nobody had held it, which makes no difference when the payload is gone.

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
