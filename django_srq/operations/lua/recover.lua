#!lua flags=allow-oom
-- Recovers by hand the items whose leases have ended, also those that are never recovered automatically.
-- ARGV[3]  max_deliveries, 0: any number; ARGV[4] max_crashes, 0: any number
-- ARGV[5]  lease (ms) of the items that saferedisqueue's consumers hold
-- ARGV[6]  recovers: 1 if these leases are recovered when they have ended; 0: never automatically
-- Reply: the number of items made ready and of leases looked at, separated by a space; at most 100 leases a call.
-- include: keys begin wake records removal lifecycle due housekeeping
if repeated then
  return repeated
end
if is_due() then
  keep_house(tonumber(ARGV[5]), ARGV[6] == '1')
end
local made, looked = recover_ended(tonumber(ARGV[3]), tonumber(ARGV[4]), true)
ring(made)
return finish(made .. ' ' .. looked)
