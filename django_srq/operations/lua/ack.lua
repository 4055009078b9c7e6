#!lua flags=allow-oom
-- Acks items: removes them with all that is known of them, wherever they are now.
-- ARGV[3…] per item: uid, token ('': by whoever holds it), number of the put ('': a generated uid)
-- Reply: per item a flag, 1 when this call removed it, else 0.
-- include: keys begin wake records
if repeated then
  return repeated
end
local at = 3
local recorded = has_records()
-- include: settle
local reply = table.concat(flags)
local _, acked = string.gsub(reply, '1', '')
freed(acked)
return finish(reply)
