#!lua flags=allow-oom
-- Deletes items that nobody holds.
-- ARGV[3]  state: only items in this state; '' for any state except in flight; done: no items, only uids as below
-- ARGV[4]  counter: dropped, or purged when the items are a part of a purge
-- ARGV[5…] per item: uid, number of the put ('': any put's); an item that was put anew with its uid is another item
-- Reply: per uid a flag, 1 when this call deleted it, else 0.
-- Also deletes the results of items that are done, and lets the uids be put again that count as there although their
-- items are.
-- include: keys begin wake records removal state flags uniques results
if repeated then
  return repeated
end
local flags, gone = flag_each(5, 2, function(uid, number)
  local there = redis.call('HEXISTS', items, uid) == 1
  local state = there and state_of(uid) or 'in_flight'
  local drops = state ~= 'in_flight' and (ARGV[3] == '' or ARGV[3] == state)
    and (number == '' or tostring(about(uid).number or '') == number)
  if drops then
    remove_unheld(uid)
  end
  if drops or not there and (ARGV[3] == '' or ARGV[3] == 'done') and number == '' then
    forget_unique(uid)
    forget_result(uid)
  end
  return drops
end)
if gone > 0 then
  count(ARGV[4], gone)
end
return finish(flags)
