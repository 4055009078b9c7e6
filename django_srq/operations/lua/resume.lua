#!lua flags=allow-oom
-- Ends a pause and wakes the consumers.
-- Reply: 1 when the queue was paused, else 0.
-- include: keys begin wake
if repeated then
  return repeated
end
local was = redis.call('DEL', paused)
if was == 1 then
  ring(WAKE_MOST)
end
return finish(tostring(was))
