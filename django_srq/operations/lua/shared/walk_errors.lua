-- Walks over items that have an error, in the order of a zset's scores, a batch a call. Needs keys.
local LOOK_MOST = 250   -- items that one call looks at: their errors, tracebacks included, have to be read

-- Whether an error is the one that a word names: by its group, its type, or the last part of its type.
local function is_named(failure, word)
  return failure.group == word or failure.type == word or string.match(failure.type or '', '[^.]+$') == word
end

-- The moment (ms) before which the errors of a walk happened, and where the walk goes on. cursor: '' to begin.
local function begin_walk(cursor, now, age)
  local before, from, left = string.match(cursor, '^(%d+) (%S+) (%d+)$')
  return before or string.format('%.0f', math.max(0, now - age)), from or '0', tonumber(left or 0)
end

-- before, from, left: see begin_walk. from: the score that the walk has reached; left: how many uids of this score were
-- looked at and are still there. to: the highest score. most: items to take at most.
-- take(uid) returns how many items it took (1 or 0), and whether it removed the uid from the zset.
-- Returns the number of items taken and the next cursor, '' at the end.
local function walk_errors(key, before, from, left, to, most, take)
  local found = redis.call('ZRANGE', key, from, to, 'BYSCORE', 'LIMIT', left, LOOK_MOST, 'WITHSCORES')
  local taken, looked = 0, 0
  while taken < most and 2 * looked < #found do
    local uid, score = found[2 * looked + 1], found[2 * looked + 2]
    looked = looked + 1
    if score ~= from then
      from, left = score, 0
    end
    local number, gone = take(uid)
    taken = taken + number
    left = gone and left or left + 1
  end
  if looked < LOOK_MOST and 2 * looked == #found then
    return taken, ''
  end
  return taken, before .. ' ' .. from .. ' ' .. left
end

-- The reply of a count: the next cursor, then per group its name and number.
local function group_counts(cursor, groups)
  local reply = {cursor}
  for name, number in pairs(groups) do
    reply[#reply + 1] = name
    reply[#reply + 1] = number
  end
  return reply
end
