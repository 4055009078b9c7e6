#!lua flags=no-writes
-- A page of results, of those that are forgotten last first: with one time to live for all, the newest ones.
-- ARGV[1]  before: only results whose scores are below this one; '' for any
-- ARGV[2]  count: results in the reply at most
-- Reply: how many results there are, the score of the last one here ('' at the end), then per result its uid and itself.
-- The reply has at most MOST_BYTES besides those of its first result, so it may have fewer results than asked for.
-- include: keys check_layout clock most_bytes
local now, count = server_time(), tonumber(ARGV[2])
local before = ARGV[1] == '' and '+inf' or '(' .. ARGV[1]
local found = redis.call('ZRANGE', expiring, before, '(' .. now, 'BYSCORE', 'REV', 'LIMIT', 0, count + 1, 'WITHSCORES')
local reply, bytes, last = {redis.call('ZCOUNT', expiring, '(' .. now, '+inf'), ''}, 0, ''
for i = 1, #found, 2 do
  local kept = redis.call('HGET', results, found[i])
  bytes = bytes + (#reply > 2 and kept and #kept or 0)
  if i > 2 * count or bytes > MOST_BYTES then
    reply[2] = last
    break
  end
  if kept then
    reply[#reply + 1], reply[#reply + 2] = found[i], kept
  end
  last = found[i + 1]
end
return reply
