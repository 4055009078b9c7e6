-- Walks over dead items in the order of their deaths, a batch a call. Needs keys.
local LOOK_MOST = 250   -- items that one call looks at: their errors, tracebacks included, have to be read

-- Whether an error (JSON) is the one that a word names: by its group, its type, or the last part of its type.
local function is_named(failure, word)
  return failure.group == word or failure.type == word or string.match(failure.type or '', '[^.]+$') == word
end

-- cursor: '' to begin, then what the call before returned; most: items to take.
-- age (ms): only those that died so long before the walk began; what dies meanwhile is left out.
-- word: only those whose error it names; '' for any.
-- take(uid, failure) returns how many it took (1 or 0) and whether the uid left dead by that; failure is nil when no
-- error had to be read, which read (true) asks for.
-- Returns the number taken and the next cursor, '' at the end.
local function walk_dead(cursor, now, age, word, most, read, take)
  local before, from, left = string.match(cursor, '^(%d+) (%d+) (%d+)$')
  before, from, left = before or string.format('%.0f', math.max(0, now - age)), from or '0', tonumber(left or 0)
  -- left: how many of those that died at from were looked at and are still there.
  local found = redis.call('ZRANGE', dead, from, before, 'BYSCORE', 'LIMIT', left, LOOK_MOST, 'WITHSCORES')
  local taken, looked = 0, 0
  while taken < most and 2 * looked < #found do
    local uid, died = found[2 * looked + 1], found[2 * looked + 2]
    looked = looked + 1
    if died ~= from then
      from, left = died, 0
    end
    local failure = (read or word ~= '') and cjson.decode(redis.call('HGET', errors, uid) or '{}') or nil
    local number, gone = 0, false
    if word == '' or is_named(failure, word) then
      number, gone = take(uid, failure)
    end
    taken = taken + number
    left = gone and left or left + 1
  end
  if looked < LOOK_MOST and 2 * looked == #found then
    return taken, ''
  end
  return taken, before .. ' ' .. from .. ' ' .. left
end
