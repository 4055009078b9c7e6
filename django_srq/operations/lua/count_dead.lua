#!lua flags=no-writes
-- Counts dead items by the group of their error, a batch a call.
-- ARGV[1]  cursor: '' to begin, then the cursor that the call before replied
-- ARGV[2]  age (ms): only items that died so long before the first call
-- ARGV[3]  word: only items whose error it names (its group, its type, or the last part of its type); '' for any
-- Reply: the next cursor, '' when that was all; then per group its name and the number of its items among those, at
--   most 250, that this call looked at.
-- include: keys check_layout clock records walk_errors walk_dead
local groups = {}
local _, cursor = walk_dead(ARGV[1], server_time(), tonumber(ARGV[2]), ARGV[3], LOOK_MOST, true, function(_, failure)
  local name = failure.group or 'other'
  groups[name] = (groups[name] or 0) + 1
  return 1, false
end)
return group_counts(cursor, groups)
