#!lua flags=no-writes
-- Walks over the uids of a hash, without sending the values: payloads may be large.
-- ARGV[1]  hash: items, holders, retrying, deliveries, crashes, errors, headers, waiting or results
-- ARGV[2]  cursor: 0 to begin, then the cursor that the call before replied
-- ARGV[3]  count: how many uids to look for; fewer when their values have more than MOST_BYTES
-- Reply: the next cursor, 0 when that was all; then the uids. A uid may come twice.
-- include: keys check_layout most_bytes
local hash = ({items = items, holders = holders, retrying = retrying, deliveries = deliveries, crashes = crashes, errors = errors,
  headers = headers, waiting = waiting, results = results})[ARGV[1]]
local cursor, bytes, reply = ARGV[2], 0, {''}
repeat
  local scan = redis.call('HSCAN', hash, cursor, 'COUNT', 1)   -- this reads the values, too
  cursor = scan[1]
  for i = 1, #scan[2], 2 do
    reply[#reply + 1] = scan[2][i]
    bytes = bytes + #scan[2][i + 1]
  end
until cursor == '0' or #reply > tonumber(ARGV[3]) or bytes > MOST_BYTES
reply[1] = cursor
return reply
