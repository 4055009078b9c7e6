#!lua flags=no-writes
-- The items that are retrying in groups by their errors; the group with the latest failure comes first.
-- ARGV[1]  tracebacks: for how many groups the error of the example has its traceback
-- Reply: per group: name, "count first last uid" (ms of the first and the last failure; the uid of an example), the
--   error of the example (JSON; '' when it is gone).
-- include: keys check_layout records groups
return groups_of(retrygroups, tonumber(ARGV[1]))
