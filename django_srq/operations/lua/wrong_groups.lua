#!lua flags=no-writes
-- Compares the counts of the groups in retrygroups with the items in retrying, all at one moment. For the audit.
-- Reply: per group with a wrong count: its name, its count, and the number of its items. When more than 1000 items are
--   retrying, only the total is compared; its name is ''.
-- include: keys check_layout
local counted, found, total = {}, {}, 0
local groups = redis.call('HGETALL', retrygroups)
for i = 1, #groups, 2 do
  counted[groups[i]] = tonumber(string.match(groups[i + 1], '^%d+'))
  total = total + counted[groups[i]]
end
local number = redis.call('HLEN', retrying)
if number > 1000 then
  return total ~= number and {'', total, number} or {}
end
local entries = redis.call('HGETALL', retrying)
for i = 2, #entries, 2 do
  found[entries[i]] = (found[entries[i]] or 0) + 1
  counted[entries[i]] = counted[entries[i]] or 0
end
local reply = {}
for name, count in pairs(counted) do
  if count ~= (found[name] or 0) then
    for _, part in ipairs({name, count, found[name] or 0}) do
      reply[#reply + 1] = part
    end
  end
end
return reply
