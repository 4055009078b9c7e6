#!lua flags=allow-oom
-- Reports the witnessed death of a consumer in mid-item: the items are ready again at once, in their old place, or dead
-- when their crashes or deliveries are used up.
-- ARGV[3]  max_deliveries, 0: any number; ARGV[4] max_crashes, 0: any number
-- ARGV[5]  evidence: JSON object with type, message and what else is known
-- ARGV[6…] per item: uid, token
-- Reply: per item the state it went to, or - when that delivery was over; separated by spaces.
-- include: keys call tell items
if repeated then
  return repeated
end
local states, made, died = {}, 0, 0
for i = 6, #ARGV, 2 do
  local uid, token = ARGV[i], ARGV[i + 1]
  local state = '-'
  if redis.call('HGET', holders, uid) == token and redis.call('HEXISTS', items, uid) == 1 then
    state = give_up(uid, token, true, tonumber(ARGV[3]), tonumber(ARGV[4]), cjson.decode(ARGV[5]))
    died = died + 1
    made = made + (state == 'ready' and 1 or 0)
  end
  states[#states + 1] = state
end
if died > 0 then
  count('crashed', died)
end
ring(made)
return finish(table.concat(states, ' '))
