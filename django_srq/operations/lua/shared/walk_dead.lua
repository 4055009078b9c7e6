-- Walks over dead items in the order of their deaths, a batch a call. Needs keys, records, walk_errors.

-- cursor: '' to begin, then the cursor that the call before returned; most: items to take at most.
-- age (ms): only items that died so long before the walk began; items that die meanwhile are left out.
-- word: only items whose error it names; '' for any.
-- take(uid, failure) returns how many items it took (1 or 0), and whether it removed the uid from dead. failure is the
-- item's error; it is nil when read is false and word is ''.
-- Returns the number of items taken and the next cursor, '' at the end.
local function walk_dead(cursor, now, age, word, most, read, take)
  local before, from, left = begin_walk(cursor, now, age)
  return walk_errors(dead, before, from, left, before, most, function(uid)
    local failure = (read or word ~= '') and (last_error(uid) or {}) or nil
    if word ~= '' and not is_named(failure, word) then
      return 0, false
    end
    return take(uid, failure)
  end)
end
