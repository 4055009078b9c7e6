-- Needs keys, records.

-- The groups of a hash, deadgroups or retrygroups, as the scripts reply them: the group that took an item last comes
-- first. tracebacks: for how many groups the error of the example has its traceback.
local function groups_of(hash, tracebacks)
  local groups = {}
  local all = redis.call('HGETALL', hash)
  for i = 1, #all, 2 do
    groups[#groups + 1] = {name = all[i], entry = all[i + 1], last = tonumber(string.match(all[i + 1], '^%d+ %d+ (%d+)')) or 0}
  end
  table.sort(groups, function(one, other) return one.last > other.last end)
  local reply = {}
  for i, group in ipairs(groups) do
    local uid = string.match(group.entry, '^%d+ %d+ %d+ (%S+)$')
    local text = without_earlier(uid and redis.call('HGET', errors, uid) or '')
    if text ~= '' and i > tracebacks then
      local failure = cjson.decode(text)
      failure.traceback = nil
      text = cjson.encode(failure)
    end
    reply[#reply + 1] = group.name
    reply[#reply + 1] = group.entry
    reply[#reply + 1] = text
  end
  return reply
end
