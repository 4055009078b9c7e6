#!lua flags=allow-oom
-- Acks items: removes them with all that is known of them, wherever they are now.
-- ARGV[3…] per item: uid, token ('': by whoever holds it), number of the put ('': a generated uid)
-- Reply: per item a flag, 1 when this call removed it, else 0.
-- include: keys call tell items
if repeated then
  return repeated
end
local flags, acked, recorded = {}, 0, has_records()
for i = 3, #ARGV, 3 do
  local flag = settle(ARGV[i], ARGV[i + 1], ARGV[i + 2], recorded)
  flags[#flags + 1] = flag
  acked = acked + tonumber(flag)
end
freed(acked)
return finish(table.concat(flags))
