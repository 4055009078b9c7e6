#!lua
-- Makes dead items ready again, at the back, and counts their deliveries and crashes anew.
-- ARGV[3…] uids
-- Reply: per uid a flag, 1 when the item was dead and is ready now, else 0.
-- include: keys begin wake records removal lifecycle
if repeated then
  return repeated
end
local flags, made = {}, 0
for i = 3, #ARGV do
  local uid = ARGV[i]
  local there = redis.call('ZSCORE', dead, uid) and redis.call('HEXISTS', items, uid) == 1
  if there then
    requeue(uid)
    made = made + 1
  end
  flags[#flags + 1] = there and '1' or '0'
end
if made > 0 then
  count('requeued', made)
  ring(made)
end
return finish(table.concat(flags))
