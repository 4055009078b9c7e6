#!lua
-- Makes dead items ready again, at the back, and counts their deliveries and crashes anew.
-- ARGV[3…] uids
-- Reply: per uid a flag, 1 when the item was dead and is ready now, else 0.
-- include: keys begin wake records removal lifecycle flags
if repeated then
  return repeated
end
local flags, made = flag_each(3, 1, function(uid)
  local there = redis.call('ZSCORE', dead, uid) and redis.call('HEXISTS', items, uid) == 1
  if there then
    requeue(uid)
  end
  return there
end)
if made > 0 then
  count('requeued', made)
  ring(made)
end
return finish(flags)
