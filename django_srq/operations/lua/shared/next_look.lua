-- When a consumer is to come again, after a claim. Needs keys, begin, wake, look.
-- include: next_event
local MISSED = 2000    -- ms after which another consumer comes, in case the one that was told to come does not

-- After a claim: wakes the consumers that are needed now. Returns the time (ms) until it is worth asking again (-1: no
-- known moment), and how many ready items only the limits hold up.
-- n: items asked for. taken has these fields:
--   made      how many items this call made ready
--   handed    how many items were handed out
--   left      how many ready items are left, ghosts included
--   held_up   whether the queue is paused; till: until when
--   due       when the rate allows the next item
--   pass_on   a function, when only suspects are left that this consumer may not have now: wakes another consumer, and
--             returns the time (ms) after which this one may ask again
local function next_look(consumer, n, max_in_flight, interval, taken)
  if taken.held_up then
    return taken.till and math.max(10, taken.till - now) or -1, 0
  end
  local left, handed, due = taken.left, taken.handed, taken.due
  -- Whether max_in_flight, or the rate, would give nothing to another consumer that came now.
  local full = max_in_flight > 0 and redis.call('HLEN', holders) >= max_in_flight
  local early = interval > 0 and due > now
  if left > 0 and not (full or early) then
    if taken.pass_on then
      return taken.pass_on(consumer), left
    end
    -- A claim that leaves items that can be taken wakes consumers for them.
    ring(math.max(math.min(taken.made - handed, left), redis.call('LLEN', wake) == 0 and 1 or 0))
    return 0, 0
  end

  local wait = handed < n and next_event() or 0   -- a consumer that got all n items comes again anyway
  local function within(ms)
    wait = wait < 0 and ms or math.min(wait, ms)
  end
  if left == 0 or not full then   -- else the next ack wakes a consumer
    redis.call('DEL', wake)
  end
  if left > 0 and not full then
    -- The rate allows nothing yet. Of all consumers that come too early, one is told when to come again: the first
    -- that gets no item by its claim. Until then nobody is woken. The others need not come, or only MISSED ms later,
    -- in case the first is busy or gone by then.
    if (facts.told or 0) > now then
      local missed = facts.told - now + MISSED
      if missed < LOOK then
        within(missed)
      end
    elseif handed == 0 and n > 0 then
      facts.told = math.ceil(math.min(due, now + LOOK))
      redis.call('HSET', meta, 'told', facts.told, 'told_to', consumer)
      within(math.max(10, math.ceil(due - now)))
    else
      ring(1)   -- this consumer gets no item yet, but is told when to come
    end
  end
  return wait, left
end
