#!lua flags=no-writes
-- The dead items in groups by their errors; the group with the latest death comes first.
-- ARGV[1]  tracebacks: for how many groups the error of the example has its traceback
-- Reply: per group: name, "count first last uid" (first and last death in ms; the uid of an example, which groups of an
--   earlier version lack), the error of the example (JSON; '' when it is gone).
-- include: keys check_layout
local groups = {}
local all = redis.call('HGETALL', deadgroups)
for i = 1, #all, 2 do
  groups[#groups + 1] = {name = all[i], entry = all[i + 1], last = tonumber(string.match(all[i + 1], '^%d+ %d+ (%d+)')) or 0}
end
table.sort(groups, function(one, other) return one.last > other.last end)
local reply = {}
for i, group in ipairs(groups) do
  local uid = string.match(group.entry, '^%d+ %d+ %d+ (%S+)$')
  local text = uid and redis.call('HGET', errors, uid) or ''
  if text ~= '' and i > tonumber(ARGV[1]) then
    local failure = cjson.decode(text)
    failure.traceback = nil
    text = cjson.encode(failure)
  end
  reply[#reply + 1] = group.name
  reply[#reply + 1] = group.entry
  reply[#reply + 1] = text
end
return reply
