#!lua flags=allow-oom
-- Deletes an item that is ready or delayed, and keeps a result of it.
-- ARGV[3]  uid
-- ARGV[4]  kept: '' for no result, or "<ttl (ms)> <most> <outcome (JSON)>": see shared/results
-- Reply: 1 when this call deleted the item, 0 when it is not there, in flight or dead.
-- As drop does, also lets the uid be put again that counts as there by unique_for.
-- include: keys begin wake records removal state uniques results keep_result
if repeated then
  return repeated
end
local uid = ARGV[3]
local payload = redis.call('HGET', items, uid)
local state = payload and state_of(uid)
if state ~= 'ready' and state ~= 'delayed' then
  return finish('0')
end
if ARGV[4] ~= '' then
  -- Nobody has read the payload yet. If it is not JSON, the result goes without it.
  payload = pcall(cjson.decode, payload) and payload or 'null'
  limit_results(1, keep_result(uid, ARGV[4], payload, '', has_records()))
end
remove_unheld(uid)
forget_unique(uid)
count('dropped')
return finish('1')
