#!lua flags=allow-oom
-- Makes delayed items ready now, at the back; their deliveries stay counted.
-- ARGV[3…] uids
-- Reply: per uid a flag, 1 when the item was delayed and is ready now, else 0.
-- include: keys begin wake records removal lifecycle flags
if repeated then
  return repeated
end
local flags, made = flag_each(3, 1, function(uid)
  local there = redis.call('ZSCORE', delayed, uid) and redis.call('HEXISTS', items, uid) == 1
    and redis.call('HEXISTS', holders, uid) == 0
  if there then
    run_now(uid)
  end
  return there
end)
if made > 0 then
  count('run_now', made)
  ring(made)
end
return finish(flags)
