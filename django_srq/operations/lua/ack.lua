#!lua flags=allow-oom
-- Acks items: removes each with all that is known of it, wherever it is now.
-- ARGV[3…] per item: uid, token ('': any holder's), number of the put ('': the uid was generated); behind the number,
--   where a result is to be kept, a space and "<ttl (ms)> <most> <outcome (JSON)>": see shared/results
-- Reply: per item a flag, 1 when this call removed it, else 0.
-- include: keys begin wake records settle
if repeated then
  return repeated
end
local flags, recorded = {}, has_records()
local at = recorded and 3 or settle(3, flags)
if ARGV[at] and not recorded and string.find(ARGV[at + 2], '^ ') then
  -- include: settle_kept
  at = settle_kept(at, flags)
end
if ARGV[at] then
  -- include: removal settle_carefully
  settle_carefully(at, flags, recorded)
end
local reply = table.concat(flags)
local _, acked = string.gsub(reply, '1', '')
freed(acked)
return finish(reply)
