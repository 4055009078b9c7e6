#!lua
-- Makes dead items ready again, at the back, and counts their deliveries and crashes anew; a batch a call.
-- ARGV[3]  cursor: '' to begin, then the cursor that the call before replied
-- ARGV[4]  age (ms): only items that died so long before the first call
-- ARGV[5]  word: only items whose error it names (its group, its type, or the last part of its type); '' for any
-- ARGV[6]  most: items to make ready at most; a call looks at no more than 250
-- Reply: the number of items made ready, a space, and the next cursor, '' when that was all.
-- include: keys begin wake records removal lifecycle walk_errors walk_dead
if repeated then
  return repeated
end
local made, cursor = walk_dead(ARGV[3], now, tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6]), false, function(uid)
  if redis.call('HEXISTS', items, uid) == 0 then
    forget(uid)
    return 0, true
  end
  requeue(uid)
  return 1, true
end)
if made > 0 then
  count('requeued', made)
  ring(made)
end
return finish(made .. ' ' .. cursor)
