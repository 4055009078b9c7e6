#!lua flags=no-writes
-- Everything that the status shows of one queue, at one moment.
-- ARGV[1]  minutes and ARGV[2] hours: how many of the last ones of each time series, at most MINUTES and HOURS
-- Reply: time (ms), ready, in flight, delayed, retrying (those among the delayed that wait after an error), dead, ended leases that are never recovered automatically, the sum of
--   due delays and ended leases (the next claims make these items ready), layout ('' when the queue was never used),
--   paused (JSON or ''), uid and headers of the oldest ready item ('' for none); then three flat lists of fields and
--   values: counters, consumers, meta; and two lists, of minutes and of hours: the running period so far, then the periods
--   before it (see shared/series); each with how many deliveries were postponed, behind its other counters.
-- include: keys clock series_sizes periods
local now = server_time()

-- The oldest ready item: the next one of returned, else of the list, else of priority. Since when it waits, its uid or
-- its headers say.
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

local function counted()
  local counters = with_buckets({'put', 'acked', 'delivered', 'failed', 'recovered', 'crashed', 'dead', 'dropped', 'purged',
    'requeued', 'released', 'postponed', 'run_now'})
  local values, flat = redis.call('HMGET', stats, unpack(counters)), {}
  for i, name in ipairs(counters) do
    if values[i] then
      flat[#flat + 1] = name
      flat[#flat + 1] = values[i]
    end
  end
  return flat
end

-- Adds to each period, behind its other counters, how many deliveries were postponed in it: see shared/postponed.
local function with_postponed(found, ring_name, most)
  local fields, counted = {}, {}
  for i, entry in ipairs(found) do
    fields[i] = ring_name .. string.format('%.0f', string.match(entry, '^%d+') % most)
  end
  if #found > 0 and redis.call('HEXISTS', stats, 'postponed') == 1 then
    counted = redis.call('HMGET', stats, unpack(fields))
  end
  for i, entry in ipairs(found) do
    local number, times = string.match(counted[i] or '', '^(%d+) (%d+)$')
    local counters, quantiles = string.match(entry, '^(%d+ %d+ %d+ %d+ %d+ %d+)(.*)$')
    found[i] = counters .. ' ' .. (number == string.match(entry, '^%d+') and times or 0) .. quantiles
  end
  return found
end

local function periods(name, ring_name, ms, most, wanted)
  local fields = {name}
  local number = math.floor(now / ms)
  for i = 1, wanted do
    fields[#fields + 1] = ring_name .. string.format('%.0f', (number - i + most) % most)
  end
  local found = {}
  for i, entry in ipairs(wanted > 0 and redis.call('HMGET', stats, unpack(fields)) or {}) do
    if entry then
      found[#found + 1] = i == 1 and period_until(totals_of_stats(), entry) or entry
    end
  end
  return with_postponed(found, 'p' .. ring_name, most)
end

local ghosts = tonumber(redis.call('HGET', meta, 'ghosts') or 0)
local ready = math.max(0, redis.call('LLEN', queue) - ghosts) + redis.call('ZCARD', returned) + redis.call('ZCARD', priority)
local in_flight = redis.call('HLEN', holders) + redis.call('LLEN', ackbuf) + redis.call('LLEN', backup)
  + redis.call('ZCARD', ackbuf_aging)
local waiting = redis.call('ZCARD', delayed)
local old = oldest()
return {
  string.format('%.0f', now), ready, in_flight, waiting, math.min(waiting, redis.call('HLEN', retrying)), redis.call('ZCARD', dead),
  redis.call('ZCOUNT', leases, -now, '(0'), redis.call('ZCOUNT', delayed, '-inf', now) + redis.call('ZCOUNT', leases, 0, now),
  redis.call('HGET', meta, 'layout') or '', redis.call('GET', paused) or '',
  old or '', old and redis.call('HGET', headers, old) or '',
  counted(), redis.call('HGETALL', consumers), redis.call('HGETALL', meta),
  periods('minute', 'm', 60000, MINUTES, tonumber(ARGV[1])), periods('hour', 'h', 3600000, HOURS, tonumber(ARGV[2])),
}
