#!lua flags=allow-oom
-- Registers a consumer, or strikes it off the list.
-- ARGV[3]  consumer; ARGV[4] about: JSON object of it, or '' to strike it off
-- Reply: the time (ms).
-- include: keys begin
local UNSEEN = 3600000   -- ms after which a consumer that never said goodbye is struck off
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
