-- Needs keys.
-- include: types

-- The error SRQTYPE for a key that has another type than it should have; nil when there is none.
local function wrong_type()
  for i, key in ipairs(KEYS) do
    local found = redis.call('TYPE', key).ok
    if found ~= 'none' and found ~= types[i] then
      return redis.error_reply('SRQTYPE ' .. key .. ' holds a ' .. found .. ' where a ' .. types[i] .. ' is expected')
    end
  end
end
