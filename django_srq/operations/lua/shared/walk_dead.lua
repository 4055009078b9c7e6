-- Walks over dead items in the order of their deaths, a batch a call. Needs keys.
local LOOK_MOST = 250   -- items that one call looks at: their errors, tracebacks included, have to be read

-- Whether an error (JSON) is the one that a word names: by its group, its type, or the last part of its type.
local function is_named(failure, word)
  return failure.group == word or failure.type == word or string.match(failure.type or '', '[^.]+$') == word
end

-- cursor: '' to begin, then the cursor that the call before returned; most: items to take at most.
-- age (ms): only items that died so long before the walk began; items that die meanwhile are left out.
-- word: only items whose error it names; '' for any.
-- take(uid, failure) returns how many items it took (1 or 0), and whether it removed the uid from dead. failure is the
-- item's error; it is nil when read is false and word is ''.
-- Returns the number of items taken and the next cursor, '' at the end.
local function walk_dead(cursor, now, age, word, most, read, take)
  local before, from, left = string.match(cursor, '^(%d+) (%d+) (%d+)$')
  before, from, left = before or string.format('%.0f', math.max(0, now - age)), from or '0', tonumber(left or 0)
  -- from: the time of death that the walk has reached; left: how many items that died then were looked at and are still
  -- dead.
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
