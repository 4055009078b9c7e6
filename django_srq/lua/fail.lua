#!lua flags=allow-oom
-- Gives an item back as failed: ready at the back, delayed, or dead when its deliveries are used up.
-- ARGV[3]  uid; ARGV[4] token ('': by whoever holds it)
-- ARGV[5]  delay (ms); 0: ready at once
-- ARGV[6]  max_deliveries; 0: any number
-- ARGV[7]  bury: 1 to set it aside at once
-- ARGV[8]  error: JSON object with type, message and what else is known, or '' for none
-- Reply: the state it went to; '' when the caller does not hold it: then nothing was changed.
-- include: keys call items
if repeated then
  return repeated
end
local uid, token, delay, limit = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local holder = redis.call('HGET', holders, uid)
if not holder or token ~= '' and holder ~= token then
  return finish('')
end
if redis.call('HEXISTS', items, uid) == 0 then
  forget(uid)
  return finish('')
end

local failure = ARGV[8] ~= '' and cjson.decode(ARGV[8]) or {type = 'Failed', message = 'failed without an error'}
local delivered = end_delivery(uid, holder)
local state
if ARGV[7] == '1' or limit > 0 and delivered >= limit then
  bury(uid, failure)
  state = 'dead'
else
  if ARGV[8] ~= '' then
    record(uid, failure)
  end
  if delay > 0 then
    postpone(uid, now + delay)
    state = 'delayed'
  else
    place(uid)
    ring(1)
    state = 'ready'
  end
end
unhold(uid)
freed(1)
count('failed')
return finish(state)
