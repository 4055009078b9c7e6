#!lua flags=allow-oom
-- Deletes items that nobody holds.
-- ARGV[3]  state: only items in this state; '' for any but in flight
-- ARGV[4…] uids
-- Reply: per uid a flag, 1 when this call deleted it, else 0.
-- include: keys call tell records removal items
if repeated then
  return repeated
end
local flags, gone = {}, 0
for i = 4, #ARGV do
  local uid = ARGV[i]
  local state = redis.call('HEXISTS', items, uid) == 1 and state_of(uid) or 'in_flight'
  local drops = state ~= 'in_flight' and (ARGV[3] == '' or ARGV[3] == state)
  if drops then
    remove_unheld(uid)
    gone = gone + 1
  end
  flags[#flags + 1] = drops and '1' or '0'
end
if gone > 0 then
  count('dropped', gone)
end
return finish(table.concat(flags))
