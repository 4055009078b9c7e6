-- Results: what is kept of an item after its ack, where the ack asks for it. Needs keys, begin, records.
local OLDEST_OUT = 100   -- results that a call deletes beyond those that it adds, where there are too many

-- The errors of an item as a list (JSON), the newest first, from an entry of errors.
local function listed_errors(stored)
  local at, ends = string.find(stored, ',"earlier":[', 1, true)
  return '[' .. (at and string.sub(stored, 1, at - 1) .. '},' .. string.sub(stored, ends + 1, -2) or stored .. ']')
end

-- Keeps the result of an item, which is still there: this reads its records. kept: "<ttl (ms)> <most> <outcome (JSON)>";
-- payload: JSON; token: of its delivery, '' for none; recorded: whether any item may have records.
-- Results are forgotten in the order of their scores, which are distinct (up to 1024 in one millisecond), so that a page
-- can go on behind a score. Returns most: how many results there may be.
local function keep_result(uid, kept, payload, token, recorded)
  local ttl, most, outcome = string.match(kept, '^(%d+) (%d+) (.*)$')
  local known = recorded and redis.call('HGET', headers, uid)
  local failed = recorded and redis.call('HGET', errors, uid)
  local delivered = redis.call('HEXISTS', holders, uid) + (recorded and deliveries_of(uid) or 0)
  local ends = now + ttl
  local last = redis.call('ZRANGE', expiring, '(' .. ends + 1, ends, 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')[2]
  redis.call('ZADD', expiring, last and math.min(last + 1 / 1024, ends + 1023 / 1024) or ends, uid)
  redis.call('HSET', results, uid, '{"item":' .. payload .. (known and ',"headers":' .. known or '')
    .. ',"token":' .. cjson.encode(token) .. ',"end":' .. now .. ',"deliveries":' .. delivered
    .. ',"outcome":' .. outcome .. (failed and ',"errors":' .. listed_errors(failed) or '') .. '}')
  return tonumber(most)
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

-- After a call added so many results: deletes those beyond most, or else some whose time is over, more than it added.
-- So there are never many more than most, and none has to be deleted at a certain time.
local function limit_results(added, most)
  local beyond = redis.call('ZCARD', expiring) - most
  if beyond > 0 then
    forget_results(redis.call('ZRANGE', expiring, 0, math.min(beyond, added + OLDEST_OUT) - 1))
  else
    trim_results(added + 1)
  end
end
