#!lua flags=no-writes
-- The dead items in groups by their errors; the group with the latest death comes first.
-- ARGV[1]  tracebacks: for how many groups the error of the example has its traceback
-- Reply: per group: name, "count first last uid" (first and last death in ms; the uid of an example, which groups of an
--   earlier version lack), the error of the example (JSON; '' when it is gone).
-- include: keys check_layout records groups
return groups_of(deadgroups, tonumber(ARGV[1]))
