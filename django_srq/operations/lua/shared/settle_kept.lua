-- Needs keys, begin, settle.
-- include: results

-- The fast path of acks whose results are to be kept; apart from that, as settle is. It writes a result before the item
-- goes: if a key turns out to belong to something else, the item is still there.
local function settle_kept(at, flags)
  local from, most = at, nil
  while ARGV[at] and ARGV[at + 1] ~= '' and string.find(ARGV[at + 2], '^ ') do
    local uid, token = ARGV[at], ARGV[at + 1]
    local payload = redis.call('HGET', items, uid)
    if not payload then
      break
    end
    most = write_result(uid, ARGV[at + 2], payload, token, 1, '')
    if redis.call('HDEL', holders, uid) == 0 then
      break   -- settle_carefully writes the same result
    end
    redis.call('HDEL', items, uid)
    redis.call('ZREM', leases, uid)
    count_settled(token)
    flags[#flags + 1] = '1'
    at = at + 3
  end
  if at > from then
    limit_results((at - from) / 3, most)
  end
  return at
end
