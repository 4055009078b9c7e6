#!lua flags=allow-oom
-- Registers a consumer, or removes it from the list of consumers.
-- ARGV[3]  consumer; ARGV[4] about: JSON object that describes it, or '' to remove it
-- Reply: the time (ms).
-- include: keys begin
local UNSEEN = 3600000   -- ms without a word from a consumer after which it is removed
if repeated then
  return repeated
end
if ARGV[4] == '' then
  redis.call('HDEL', consumers, ARGV[3])
else
  local all = redis.call('HGETALL', consumers)
  for i = 1, #all, 2 do
    if now - cjson.decode(all[i + 1]).seen > UNSEEN then
      redis.call('HDEL', consumers, all[i])
    end
  end
  redis.call('HSET', consumers, ARGV[3], '{"seen":' .. now .. ',' .. string.sub(ARGV[4], 2))
end
return finish(string.format('%.0f', now))
