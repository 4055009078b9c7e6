#!lua flags=no-writes
-- All that is known of one item.
-- ARGV[1]  uid; ARGV[2] bytes of the payload in the reply at most
-- Reply: '' when it is not there; else the time (ms), its state, the beginning of its payload, the payload's size, its
--   due time, deadline or time of death (ms; '' when ready), deliveries, crashes, headers, errors (the last
--   one, with those before it as "earlier"), the group in which it is retrying ('' for none),
--   token ('' for none), and how many items are served before it ('' when it is not ready, has a priority below 0, or more than
--   1000 uids are before it on the list).
-- include: keys check_layout clock state
local uid = ARGV[1]
local payload = redis.call('HGET', items, uid)
if not payload then
  return ''
end

local function value(hash)
  return redis.call('HGET', hash, uid) or ''
end

local function ahead()
  local place = redis.call('ZRANK', returned, uid)
  local urgent = redis.call('ZCOUNT', priority, '-inf', '(0')
  if place then
    return urgent + place
  end
  place = redis.call('ZRANK', priority, uid)
  if place then
    return place < urgent and place or ''
  end
  place = redis.call('LPOS', queue, uid, 'RANK', -1, 'MAXLEN', 1000)
  return place and urgent + redis.call('ZCARD', returned) + redis.call('LLEN', queue) - place - 1 or ''
end

local state, key = state_of(uid)
local moment = key and redis.call('ZSCORE', key, uid) or ''
return {string.format('%.0f', (server_time())), state, string.sub(payload, 1, tonumber(ARGV[2])), #payload, moment,
  value(deliveries), value(crashes), value(headers), value(errors),
  state == 'delayed' and value(retrying) or '', value(holders),
  state == 'ready' and ahead() or ''}
