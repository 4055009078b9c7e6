#!lua flags=allow-oom
-- Deletes items that are retrying, those first that are due first; a batch a call.
-- ARGV[3]  cursor: '' to begin, then the cursor that the call before replied
-- ARGV[4]  age (ms): only items that failed so long before the first call
-- ARGV[5]  word: only items whose error it names (its group, its type, or the last part of its type); '' for any
-- ARGV[6]  most: items to delete at most; a call looks at no more than 250
-- Reply: the number of items deleted, a space, and the next cursor, '' when that was all.
-- include: keys begin wake records removal lifecycle walk_errors walk_retrying
if repeated then
  return repeated
end
local gone, cursor = walk_retrying(ARGV[3], now, tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6]), function(uid)
  undelay(uid)
  forget_records(uid)
  return redis.call('HDEL', items, uid), true
end)
if gone > 0 then
  count('purged', gone)
end
return finish(gone .. ' ' .. cursor)
