#!lua flags=allow-oom
-- Gives back items that were not begun, to their old places; they do not count as delivered.
-- ARGV[3…] per item: uid, token ('': any holder's)
-- Reply: per item a flag, 1 when it was given back, 0 when the caller does not hold it.
-- include: keys begin wake records removal lifecycle flags
if repeated then
  return repeated
end
local flags, given = flag_each(3, 2, function(uid, token)
  local holder = holder_of(uid, token)
  local holds = holder and redis.call('HEXISTS', items, uid) == 1
  if holds then
    give_back(uid, holder)
  end
  return holds
end)
if given > 0 then
  count('released', given)
  ring(given)
end
return finish(flags)
