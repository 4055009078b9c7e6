#!lua flags=allow-oom
-- Gives back items that were not begun, to their old places; they do not count as delivered.
-- ARGV[3…] per item: uid, token ('': any holder's)
-- Reply: per item a flag, 1 when it was given back, 0 when the caller does not hold it.
-- include: keys begin wake records removal lifecycle
if repeated then
  return repeated
end
local flags, given = {}, 0
for i = 3, #ARGV, 2 do
  local uid, token = ARGV[i], ARGV[i + 1]
  local holder = redis.call('HGET', holders, uid)
  local holds = holder and (token == '' or holder == token) and redis.call('HEXISTS', items, uid) == 1
  if holds then
    give_back(uid, holder)
    given = given + 1
  end
  flags[#flags + 1] = holds and '1' or '0'
end
if given > 0 then
  count('released', given)
  ring(given)
end
return finish(table.concat(flags))
