#!lua flags=allow-oom
-- Gives back the items of a claim whose reply nobody reads, as far as they are still held, to their old places; they do
-- not count as delivered.
-- ARGV[3]  slot of the claim; ARGV[4] its number there: if a later call in the slot was carried out, it gives back none
-- Reply: the number of items that were given back; -1: that claim was not carried out yet.
-- include: keys begin wake records removal lifecycle claimed
if repeated then
  return repeated
end
local known, given = redis.call('HGET', slots, ARGV[3]), 0
local ahead = string.match(known or '0', '^%d+') - ARGV[4]   -- a number: Lua reads both as such
if ahead < 0 then
  return finish('-1')
end
if ahead == 0 then
  for uid, token in taken_by(known) do
    if is_held(uid, token) then
      give_back(uid, token)
      given = given + 1
    end
  end
end
if given > 0 then
  count('released', given)
  ring(given)
end
return finish(tostring(given))
