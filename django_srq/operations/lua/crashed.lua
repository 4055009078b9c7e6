#!lua flags=allow-oom
-- Reports the end of a consumer that held items: they are ready again at once, in their old places, or dead when their
-- crashes or deliveries are used up. Closes the slot of its claims: a claim that is still on its way will be refused.
-- ARGV[3]  max_deliveries, 0: any number; ARGV[4] max_crashes, 0: any number
-- ARGV[5]  how: "crash" (counts as a crash), "cut" (the consumer was made to stop: counts only as a delivery),
--          "release" (it had not begun the items: counts neither as a delivery nor as a crash), or "end" (only the
--          leases end: for a queue that recovers nothing automatically)
-- ARGV[6]  evidence: JSON object with type, message and anything else that is known
-- ARGV[7]  slot of its claims; '' for none
-- ARGV[8…] per item: uid, token
-- Reply: per item the state to which it went, or - when that delivery was over; then, per other item that the last
--   claim in the slot took and the consumer still held, uid and state; separated by spaces.
-- include: keys begin wake records removal lifecycle claimed
if repeated then
  return repeated
end
local how, died, made = ARGV[5], 0, 0

local function end_one(uid, token)
  if not is_held(uid, token) then
    return '-'
  end
  died = died + 1
  if how == 'end' then
    redis.call('ZADD', leases, -now, uid)
    record(uid, cjson.decode(ARGV[6]), token)
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
  -- Items that the consumer took, but had no time to write down.
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
