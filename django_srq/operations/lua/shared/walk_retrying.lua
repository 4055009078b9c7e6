-- Walks over the delayed items that are retrying, in the order of their due times, a batch a call.
-- Needs keys, records, walk_errors.

-- cursor, word, most: as in walk_dead. age (ms): only items that failed so long before the walk began; items that fail
-- meanwhile are left out.
-- take(uid, name) returns how many items it took (1 or 0), and whether it removed the uid from delayed. name: the item's
-- group.
-- Returns the number of items taken and the next cursor, '' at the end.
local function walk_retrying(cursor, now, age, word, most, take)
  if redis.call('HLEN', retrying) == 0 then
    return 0, ''
  end
  local before, from, left = begin_walk(cursor, now, age)
  return walk_errors(delayed, before, from, left, '+inf', most, function(uid)
    local name = redis.call('HGET', retrying, uid)
    local failure = name and (last_error(uid) or {})
    if not name or (failure.time or 0) > tonumber(before)
      or word ~= '' and name ~= word and not is_named(failure, word) then
      return 0, false
    end
    return take(uid, name)
  end)
end
