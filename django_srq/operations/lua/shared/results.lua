-- Results: what is kept of an item after its ack, where the ack asks for it. Needs keys, begin.
-- include: result_over
local OLDEST_OUT = 100    -- results that a call deletes beyond those that it adds, where there are too many
local LOOK_MOST = 2 ^ 22  -- bytes of results that one call reads, to see whether their time is over

-- Writes the result of an item. kept: "<ttl (ms)> <most> <outcome (JSON)>"; payload: JSON; token: of its last delivery,
-- '' for none; delivered: how many deliveries there were, with that one; more: further fields (JSON, each with a comma
-- before it), or ''. A field that nearly all results would have alike is left out: one delivery.
-- The scores in finished are distinct (up to 1024 in one millisecond), so that a page can go on behind a score.
-- Returns most: how many results there may be.
local function write_result(uid, kept, payload, token, delivered, more)
  local ttl, most, outcome = string.match(kept, '^ ?(%d+) (%d+) (.*)$')
  local last = redis.call('ZRANGE', finished, '(' .. now + 1, now, 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')[2]
  redis.call('ZADD', finished, last and math.min(last + 1 / 1024, now + 1023 / 1024) or now, uid)
  local named = string.find(token, '["\\%c]') and cjson.encode(token) or '"' .. token .. '"'
  local several = delivered == 1 and '' or ',"deliveries":' .. delivered
  redis.call('HSET', results, uid, '{"ttl":' .. ttl .. ',"item":' .. payload .. ',"token":' .. named .. several .. more
    .. ',"outcome":' .. outcome .. '}')
  return most
end

local function forget_result(uid)
  if redis.call('HDEL', results, uid) == 1 then
    redis.call('ZREM', finished, uid)
  end
end

local function forget_results(uids)
  if #uids > 0 then
    redis.call('HDEL', results, unpack(uids))
    redis.call('ZREM', finished, unpack(uids))
  end
end

-- Deletes the results whose time is over, the oldest first, at most so many (in steps of 100), up to the first one that
-- is still to be kept. Those behind it that are to be kept for a shorter time are not told any more (see result_over),
-- but stay until it goes: they count for the limit as all others do.
local function trim_results(most)
  local bytes, looked = 0, 0
  while looked < most and bytes < LOOK_MOST do
    local oldest, over = redis.call('ZRANGE', finished, 0, 99, 'WITHSCORES'), {}
    for i = 1, #oldest, 2 do
      local kept = redis.call('HGET', results, oldest[i])
      if kept and not result_over(kept, oldest[i + 1]) or bytes >= LOOK_MOST then
        break
      end
      bytes = bytes + (kept and #kept or 0)
      over[#over + 1] = oldest[i]
    end
    forget_results(over)
    looked = #over == 100 and looked + 100 or most
  end
end

-- After a call added so many results: deletes the oldest beyond most. So there are never many more than most, and no
-- call has to delete them all.
local function limit_results(added, most)
  local beyond = redis.call('ZCARD', finished) - most
  if beyond > 0 then
    forget_results(redis.call('ZRANGE', finished, 0, math.min(beyond, added + OLDEST_OUT) - 1))
  end
end
