#!lua flags=no-writes
-- Counts the items that are retrying by the group of their error, a batch a call.
-- ARGV[1]  cursor: '' to begin, then the cursor that the call before replied
-- ARGV[2]  age (ms): only items that failed so long before the first call
-- ARGV[3]  word: only items whose error it names (its group, its type, or the last part of its type); '' for any
-- Reply: the next cursor, '' when that was all; then per group its name and the number of its items among those, at
--   most 250, that this call looked at.
-- include: keys check_layout clock records walk_errors walk_retrying
local groups = {}
local _, cursor = walk_retrying(ARGV[1], server_time(), tonumber(ARGV[2]), ARGV[3], LOOK_MOST, function(_, name)
  groups[name] = (groups[name] or 0) + 1
  return 1, false
end)
return group_counts(cursor, groups)
