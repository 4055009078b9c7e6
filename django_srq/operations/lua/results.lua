#!lua flags=no-writes
-- Says where items are, and what is known of them; of those that are done, the results. An item whose lease has ended
-- is ready, also before a claim finds that out.
-- ARGV[1…] uids
-- Reply: per uid eight parts: its state, '' for an unknown uid, and "done" if there is a result; its payload; its token
--   ('' for none); deliveries; crashes; headers; errors (the last one, with those before it as "earlier"); and its due
--   time or time of death (ms). If it is done: its result in place of the payload, when it was acked (ms) in place of
--   the time, and the others are ''.
-- The reply has at most MOST_BYTES besides those of its first uid, so it may end before the last uid.
-- include: keys check_layout clock state most_bytes
local now = server_time()
-- include: result_over
local reply, bytes = {}, 0

local function value(hash, uid)
  return redis.call('HGET', hash, uid) or ''
end

-- Whether the lease of an item in flight has ended, so that the next claim finds it ready; nobody may be there to claim.
local function has_ended(uid)
  local ends = tonumber(redis.call('ZSCORE', leases, uid) or 0)
  return ends > 0 and ends < now
end

local function found(uid)
  local payload = redis.call('HGET', items, uid)
  if payload then
    local state, key = state_of(uid)
    local ready = state == 'in_flight' and has_ended(uid)
    local token = ready and '' or value(holders, uid)
    return {ready and 'ready' or state, payload, token, value(deliveries, uid), value(crashes, uid),
      value(headers, uid), value(errors, uid), key and state ~= 'in_flight' and redis.call('ZSCORE', key, uid) or ''}
  end
  local ended = redis.call('ZSCORE', finished, uid)
  local kept = ended and redis.call('HGET', results, uid)
  if kept and not result_over(kept, ended) then
    return {'done', kept, '', '', '', '', '', ended}
  end
  return {'', '', '', '', '', '', '', ''}
end

for i = 1, #ARGV do
  local parts = found(ARGV[i])
  bytes = bytes + (i == 1 and 0 or #parts[2] + #parts[6] + #parts[7])
  if bytes > MOST_BYTES then
    break
  end
  for _, part in ipairs(parts) do
    reply[#reply + 1] = part
  end
end
return reply
