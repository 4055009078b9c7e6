-- Finds out whether the server's run is the one that was seen last; writes nothing. Needs keys, begin. Sets run_id (nil
-- where the server does not say), goes_on (the run is the same) and restarted (it is another one).
-- include: info
run_id = string.match(info('server'), 'run_id:(%x+)')
local before = redis.call('HGET', meta, 'run_id')
goes_on = run_id and before == 'r' .. run_id
restarted = run_id and before and not goes_on
if restarted then
  facts.typed = nil   -- the keys may be those of a backup
end
