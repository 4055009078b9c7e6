-- Results: what is kept of an item after its ack, where the ack asks for it. Needs keys, begin.
local SOON = 1 / 24       -- of the time that the last one has left; see drop_results
local OLDEST_OUT = 100   -- results that a call deletes beyond those that it adds, where there are too many

-- Writes the result of an item. kept: "<ttl (ms)> <most> <outcome (JSON)>"; payload: JSON; token: of its last delivery,
-- '' for none; delivered: how many deliveries there were, with that one; more: further fields (JSON, each with a comma
-- before it), or ''. A field that nearly all results would have alike is left out: one delivery.
-- Results are forgotten in the order of their scores, which are distinct (up to 1024 in one millisecond), so that a page
-- can go on behind a score. Returns most: how many results there may be.
local function write_result(uid, kept, payload, token, delivered, more)
  local ttl, most, outcome = string.match(kept, '^ ?(%d+) (%d+) (.*)$')
  local ends = now + ttl
  local last = redis.call('ZRANGE', expiring, '(' .. ends + 1, ends, 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')[2]
  redis.call('ZADD', expiring, last and math.min(last + 1 / 1024, ends + 1023 / 1024) or ends, uid)
  local named = string.find(token, '["\\%c]') and cjson.encode(token) or '"' .. token .. '"'
  local several = delivered == 1 and '' or ',"deliveries":' .. delivered
  redis.call('HSET', results, uid,
    '{"item":' .. payload .. ',"token":' .. named .. ',"end":' .. now .. several .. more .. ',"outcome":' .. outcome .. '}')
  return most
end

local function forget_result(uid)
  if redis.call('HDEL', results, uid) == 1 then
    redis.call('ZREM', expiring, uid)
  end
end

local function forget_results(uids)
  if #uids > 0 then
    redis.call('HDEL', results, unpack(uids))
    redis.call('ZREM', expiring, unpack(uids))
  end
end

-- Deletes the results whose time is over, those that ended first, at most so many.
local function trim_results(most)
  forget_results(redis.call('ZRANGE', expiring, '-inf', now, 'BYSCORE', 'LIMIT', 0, most))
end

-- Deletes so many results, those that are forgotten first; but those that are forgotten soon go last. Else a result that
-- is kept for a short time only would go at once, while somebody waits for it.
local function drop_results(number)
  local last = redis.call('ZRANGE', expiring, -1, -1, 'WITHSCORES')[2]
  local soon = now + (last - now) * SOON
  local later = redis.call('ZRANGE', expiring, string.format('(%.0f', soon), '+inf', 'BYSCORE', 'LIMIT', 0, number)
  forget_results(later)
  if #later < number then
    forget_results(redis.call('ZRANGE', expiring, 0, number - #later - 1))
  end
end

-- After a call added so many results: deletes some whose time is over, more than it added, and those beyond most.
-- So there are never many more than most, and none has to be deleted at a certain time.
local function limit_results(added, most)
  trim_results(added + 1)
  local beyond = redis.call('ZCARD', expiring) - most
  if beyond > 0 then
    drop_results(math.min(beyond, added + OLDEST_OUT))
  end
end
