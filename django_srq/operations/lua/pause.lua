#!lua
-- Lets no item be claimed until resumed. What is in flight goes on; puts go on.
-- ARGV[3]  about: JSON object with by and reason
-- ARGV[4]  its end (ms); 0: until resumed
-- Reply: 1 when the queue was not paused before, else 0 (then the new reason and end hold).
-- include: keys begin wake
if repeated then
  return repeated
end
local was = redis.call('EXISTS', paused)
local till = tonumber(ARGV[4])
if till > 0 and redis.call('LLEN', wake) == 0 then
  redis.call('RPUSH', wake, 1)   -- whoever is idle has to learn of the new moment, also when paused already
end
local limit = till > 0 and '"until":' .. till .. ',' or ''
redis.call('SET', paused, '{"since":' .. now .. ',' .. limit .. string.sub(ARGV[3], 2))
return finish(was == 1 and '0' or '1')
