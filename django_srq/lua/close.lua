#!lua flags=allow-oom
-- Closes the slots of a process that died: a call of it that is still on its way will be refused.
-- ARGV[3…] slots
-- Reply: ''.
-- include: keys call
if repeated then
  return repeated
end
for i = 3, #ARGV do
  redis.call('HSET', slots, ARGV[i], '9007199254740991 ' .. now .. ' ')
end
return finish('')
