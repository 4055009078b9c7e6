#!lua flags=no-writes
-- A page of the items that were acked and whose results are kept, those that were acked last first.
-- ARGV[1]  before: only those whose scores are below this one; '' for any
-- ARGV[2]  count: items in the reply at most
-- Reply: how many results there are (also some whose time is over), the score below which the next page begins ('' at the
--   end), then per item: uid, result, when it was acked (ms).
-- The reply has at most MOST_BYTES besides those of its first item, and looks at 1000 results at most. So it may have
-- fewer items than asked for, and yet not be the last page.
-- include: keys check_layout clock most_bytes
local now, LOOK_MOST = server_time(), 1000
-- include: result_over
local before, count = ARGV[1] == '' and '+inf' or '(' .. ARGV[1], tonumber(ARGV[2])
local found = redis.call('ZRANGE', finished, before, '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, LOOK_MOST + 1, 'WITHSCORES')
local reply, bytes, shown = {redis.call('ZCARD', finished), ''}, 0, 0
for i = 1, #found, 2 do
  local kept = redis.call('HGET', results, found[i])
  bytes = bytes + (i > 1 and kept and #kept or 0)
  if i > 2 * LOOK_MOST or shown == count or bytes > MOST_BYTES then
    reply[2] = found[i - 1]
    break
  end
  if kept and not result_over(kept, found[i + 1]) then
    reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = found[i], kept, found[i + 1]
    shown = shown + 1
  end
end
return reply
