-- Refuses to read keys of another layout version. Needs keys.
-- Replies with the error SRQLAYOUT then.
local layout = redis.call('HGET', meta, 'layout')
if layout and layout ~= LAYOUT then
  return redis.error_reply('SRQLAYOUT ' .. layout .. ' ' .. LAYOUT)
end
