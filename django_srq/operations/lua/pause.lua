#!lua
-- Lets no item be claimed until the queue is resumed. Items in flight are not affected, and puts go on.
-- ARGV[3]  about: JSON object with by and reason
-- ARGV[4]  time (ms) at which the pause ends; 0: when the queue is resumed
-- Reply: 1 when the queue was not paused before, else 0 (then the new reason and end replace the old ones).
-- include: keys begin wake
if repeated then
  return repeated
end
local was = redis.call('EXISTS', paused)
local till = tonumber(ARGV[4])
if till > 0 and redis.call('LLEN', wake) == 0 then
  redis.call('RPUSH', wake, 1)   -- an idle consumer has to learn when the pause ends, also when that changed
end
local limit = till > 0 and '"until":' .. till .. ',' or ''
redis.call('SET', paused, '{"since":' .. now .. ',' .. limit .. string.sub(ARGV[3], 2))
return finish(was == 1 and '0' or '1')
