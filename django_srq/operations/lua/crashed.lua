#!lua flags=allow-oom
-- Reports the end of a consumer that held items: they are ready again at once, in their old place, or dead when their
-- crashes or deliveries are used up. Closes its slot first, so that a claim of it that is still on its way is refused.
-- ARGV[3]  max_deliveries, 0: any number; ARGV[4] max_crashes, 0: any number
-- ARGV[5]  how: "crash" (counted as such), "cut" (it was made to stop: only a delivery), "release" (it did not begin with
--          them: not even a delivery), or "end" (only the lease ends: for a queue that recovers nothing automatically)
-- ARGV[6]  evidence: JSON object with type, message and what else is known
-- ARGV[7]  slot of its claims; '' for none
-- ARGV[8…] per item: uid, token
-- Reply: per item the state it went to, or - when that delivery was over; then, of what the last claim in the slot took
--   and it still held besides, per item uid and state; separated by spaces.
-- include: keys begin wake records removal lifecycle claimed
if repeated then
  return repeated
end
local how, died, made = ARGV[5], 0, 0

local function end_one(uid, token)
  if redis.call('HGET', holders, uid) ~= token or redis.call('HEXISTS', items, uid) == 0 then
    return '-'
  end
  died = died + 1
  if how == 'end' then
    redis.call('ZADD', leases, -now, uid)
    record(uid, cjson.decode(ARGV[6]))
    return 'in_flight'
  end
  if how == 'release' then
    give_back(uid, token)
    made = made + 1
    return 'ready'
  end
  local state = give_up(uid, token, how == 'crash', tonumber(ARGV[3]), tonumber(ARGV[4]), cjson.decode(ARGV[6]))
  if state == 'ready' then
    forget_claim(uid)
    made = made + 1
  end
  return state
end

local states = {}
for i = 8, #ARGV, 2 do
  states[#states + 1] = end_one(ARGV[i], ARGV[i + 1])
end
if ARGV[7] ~= '' then
  -- What it took but had no time to write down.
  for uid, token in taken_by(redis.call('HGET', slots, ARGV[7])) do
    local state = end_one(uid, token)
    if state ~= '-' then
      states[#states + 1] = uid
      states[#states + 1] = state
    end
  end
  redis.call('HSET', slots, ARGV[7], '9007199254740991 ' .. now .. ' ')
end
if died > 0 and how == 'crash' then
  count('recovered', died)
  count('crashed', died)
end
ring(made)
freed(died - made)
return finish(table.concat(states, ' '))
