-- The opening of every script that only reads: refuses to read keys of another layout version, with the error SRQLAYOUT.
-- Like begin, it runs at its place, to end the script. Needs keys.
local layout = redis.call('HGET', meta, 'layout')
if layout and layout ~= LAYOUT then
  return redis.error_reply('SRQLAYOUT ' .. layout .. ' ' .. LAYOUT)
end
