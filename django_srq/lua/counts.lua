#!lua flags=no-writes
-- Everything that the status shows of one queue, at one moment.
-- Reply: time (ms), ready, in flight, delayed, dead, ended leases that are not recovered automatically, delays that are
--   due and ended leases that the next claim makes ready, layout ('' when the queue was never used), paused (JSON or ''),
--   uid and headers of the oldest ready item ('' for none), then three flat lists of field and value: stats, consumers,
--   meta.
-- include: keys
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- Nobody knows when an item became ready but by its uid and headers; the oldest is the next of one of these.
local function oldest()
  local found = redis.call('ZRANGE', returned, 0, 0)[1]
  if found then
    return found
  end
  local tail = redis.call('LRANGE', queue, -10, -1)
  for i = #tail, 1, -1 do
    if redis.call('HEXISTS', items, tail[i]) == 1 then
      return tail[i]
    end
  end
  return redis.call('ZRANGE', priority, 0, 0)[1]
end

local ghosts = tonumber(redis.call('HGET', meta, 'ghosts') or 0)
local ready = math.max(0, redis.call('LLEN', queue) - ghosts) + redis.call('ZCARD', returned) + redis.call('ZCARD', priority)
local in_flight = redis.call('HLEN', holders) + redis.call('LLEN', ackbuf) + redis.call('LLEN', backup)
  + redis.call('ZCARD', ackbuf_aging)
local old = oldest()
return {
  string.format('%.0f', now), ready, in_flight, redis.call('ZCARD', delayed), redis.call('ZCARD', dead),
  redis.call('ZCOUNT', leases, -now, '(0'), redis.call('ZCOUNT', delayed, '-inf', now) + redis.call('ZCOUNT', leases, 0, now),
  redis.call('HGET', meta, 'layout') or '', redis.call('GET', paused) or '',
  old or '', old and redis.call('HGET', headers, old) or '',
  redis.call('HGETALL', stats), redis.call('HGETALL', consumers), redis.call('HGETALL', meta),
}
