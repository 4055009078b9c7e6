#!lua flags=allow-oom
-- Deletes the items on the list of ready items, a batch a call; spares items that were put after the first call.
-- ARGV[3]  marker: a uid of the caller's own, the same in all calls of one purge
-- ARGV[4]  batch: uids to delete at most; fewer when their payloads have more than 64 times MOST_BYTES, which take time
--          to free
-- ARGV[5]  start: 1 in the first call
-- Reply: "more" or "done" and the number of items deleted, separated by a space.
-- The first call puts the marker on the list: uids left of it came later. The marker is a ghost: a claim that meets it
-- drops it, and its record in meta. A purge that finds no record is done.
-- include: keys begin wake records removal lifecycle ghosts most_bytes uniques
if repeated then
  return repeated
end
local marker, batch, start = ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1'
local record = 'purge:' .. marker
if start then
  redis.call('HSET', meta, record, now)
  redis.call('LPUSH', queue, marker)
  haunt()
elseif redis.call('HEXISTS', meta, record) == 0 then
  return finish('done 0')
end

local gone, more, bytes = 0, 'more', 0
for _ = 1, batch do
  local uid = redis.call('RPOP', queue)
  if not uid or uid == marker then
    redis.call('HDEL', meta, record)
    more = 'done'
  end
  if uid and is_ghost(uid, redis.call('HEXISTS', items, uid) == 1, true) then
    lay_ghost()
  elseif uid then
    bytes = bytes + redis.call('HSTRLEN', items, uid)
    redis.call('HDEL', items, uid)   -- first, as in settle
    forget_records(uid)
    forget_unique(uid)
    gone = gone + 1
  end
  if more == 'done' or bytes > 64 * MOST_BYTES then
    break
  end
end
if gone > 0 then
  count('purged', gone)
end
return finish(more .. ' ' .. gone)
