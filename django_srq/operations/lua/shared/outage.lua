-- Needs keys, begin.

-- Notes that a call looked at the server, and whether the server was away before, for the housekeeping. run_id, run:
-- see run.lua. Fields of meta:
--   run_id      the server's run: "r" and the id that the server gives itself at each start
--   restarted   time (ms) when another run was seen
--   silent      time (ms) of a call before which nobody had called for half a lease, though consumers renew leases
--               every third of a lease, and the run is another one or not known: the server was away, or nobody used it
--   quiet       the same when the run is the same, so that the server was there: all consumers were away or cut off
--               from it, or the server was stopped together with its clock, or its clock was set
--   no_run      time (ms) when the run could not be learned, because INFO is refused
local function note_look(run_id, run)
  if run == 'another' then
    redis.call('HSET', meta, 'restarted', now)
  end
  if facts.seen and facts.lease_c and math.abs(now - facts.seen) > facts.lease_c / 2 then
    redis.call('HSET', meta, run == 'same' and 'quiet' or 'silent', now)
  end
  redis.call('HSET', meta, 'layout', LAYOUT, 'seen', now, run_id and 'run_id' or 'no_run', run_id and 'r' .. run_id or now)
end
