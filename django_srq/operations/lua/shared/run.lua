-- Needs keys.
-- include: info

-- The id of the server's run (nil where the server does not say), and whether it is the "same" run as the one that was
-- seen last, or "another" (nil where that is not known). Writes nothing.
local function server_run()
  local id = string.match(info('server'), 'run_id:(%x+)')
  local before = redis.call('HGET', meta, 'run_id')
  return id, id and before and (before == 'r' .. id and 'same' or 'another') or nil
end
