-- Needs keys, begin, look.

-- Before a claim: if this is the consumer that was told when to come again, deletes the note of that. From here on,
-- told > now means that another consumer is coming.
local function arrive(consumer)
  if facts.told and facts.told > now and (facts.told > now + LOOK + 1   -- written by a clock that was ahead
    or redis.call('HGET', meta, 'told_to') == consumer) then
    facts.told = nil
    redis.call('HDEL', meta, 'told')
  end
end
