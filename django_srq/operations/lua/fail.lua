#!lua flags=allow-oom
-- Gives items back as failed: each becomes ready at the back, delayed, or dead when its deliveries are used up.
-- ARGV[3]  max_deliveries; 0: any number
-- ARGV[4]  e: the number of errors; then so many errors: JSON objects with type, message and more; "postponed": true
--   when the handler asked for the delay (RetryLater), so that the item is scheduled and not retrying
-- ARGV[5 + e…] per item: uid, token ('': any holder's), delay (ms; 0: ready at once; -1: dead at once), number of its
--          error (0: none)
-- Reply: per item the state to which it went, or - when the caller does not hold it, and nothing was changed; separated
--   by spaces.
-- include: keys begin wake records removal lifecycle
if repeated then
  return repeated
end
local limit, known = tonumber(ARGV[3]), tonumber(ARGV[4])

local function without_error()
  return {type = 'Failed', message = 'failed without an error'}
end

local postponed = 0
local function end_failed(uid, holder, delay, failure)
  local delivered = end_delivery(uid, holder)
  stop_retrying(uid)
  if delay < 0 or limit > 0 and delivered >= limit then
    bury(uid, failure or without_error(), holder)
    return 'dead'
  end
  if failure and failure.postponed then
    postponed = postponed + 1
  end
  if delay > 0 then
    failure = failure or without_error()
    record(uid, failure, holder)
    if failure.postponed then
      postpone(uid, now + delay)
    else
      retry_at(uid, now + delay, failure)
    end
    return 'delayed'
  end
  if failure then
    record(uid, failure, holder)
  end
  place(uid)
  waits_since(uid, now)
  return 'ready'
end

local states, failed, made = {}, 0, 0
for i = 5 + known, #ARGV, 4 do
  local uid, token, which = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 3])
  local holder = holder_of(uid, token)
  local state = '-'
  if holder then
    if redis.call('HEXISTS', items, uid) == 0 then
      forget(uid)
    else
      state = end_failed(uid, holder, tonumber(ARGV[i + 2]), which > 0 and cjson.decode(ARGV[4 + which]) or nil)
      unhold(uid)
      failed = failed + 1
      made = made + (state == 'ready' and 1 or 0)
    end
  end
  states[#states + 1] = state
end
if failed > 0 then
  count('failed', failed)
end
if postponed > 0 then
  -- include: series_sizes postponed
  count_postponed(postponed)
end
ring(made)
freed(failed - made)
return finish(table.concat(states, ' '))
