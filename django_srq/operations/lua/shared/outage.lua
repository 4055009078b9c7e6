-- Finds out whether the server was away, and writes it down for housekeeping. Needs keys, call, run.
-- Of meta:
--   run_id      the server's run, as "r" and the id that it gives itself at each start
--   restarted   time (ms) when another run was seen
--   silent      time (ms) when somebody called after nobody had for half a lease, while leases are renewed every third of
--               it, and it is not known whether the run is the same: the server was away, or nobody needed it
--   quiet       the same where the run went on: the server was there. All consumers were away, or cut off from it, or it
--               was stopped together with its clock, or that was set
--   no_run      time (ms) when the run could not be learned: INFO is refused
if restarted then
  redis.call('HSET', meta, 'restarted', now)
end
if facts.seen and facts.lease_c and math.abs(now - facts.seen) > facts.lease_c / 2 then
  redis.call('HSET', meta, goes_on and 'quiet' or 'silent', now)
end
redis.call('HSET', meta, 'layout', LAYOUT, 'seen', now, run_id and 'run_id' or 'no_run', run_id and 'r' .. run_id or now)
