#!lua flags=no-writes
-- Everything that the status shows of one queue, at one moment.
-- ARGV[1]  minutes and ARGV[2] hours: how many of the last ones of each time series, at most MINUTES and HOURS
-- ARGV[3]  recent (ms): for how long back the groups of errors are told that took an item; 0: none are
-- Reply: time (ms), ready, in flight, delayed, retrying (those of the delayed that wait after an error), dead, ended
--   leases that are never recovered automatically, the sum of due delays and ended leases (the next claims make these
--   items ready), layout ('' when the queue was never used), paused (JSON or ''), uid and headers of the oldest ready item
--   ('' for none); then three flat lists of fields and values: counters, consumers, meta; two lists, of minutes and of
--   hours: the running period so far, then the periods before it (see shared/series), each with how many deliveries were
--   postponed, behind its other counters; the groups of errors (see failing); and how many results
--   are kept, also those whose time is over.
-- include: keys clock series_sizes periods
local GROUPS_TOLD = 10
local now = server_time()

-- The oldest ready item: the next one of returned, else of the list, else of priority. Since when it waits, its entry in
-- waiting says, or else its headers or its uid.
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
    'requeued', 'released', 'postponed', 'run_now', 'wait_ms', 'run_ms'})
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

-- The largest groups of errors that took an item lately: name, retrying and dead items of each. Before them, how many
-- dead items the others have. Which items of a group are the late ones, nobody keeps.
local function failing(since)
  local groups, of = {}, {}
  local function add(hash, kind)
    local all = redis.call('HGETALL', hash)
    for i = 1, #all, 2 do
      local number, last = string.match(all[i + 1], '^(%d+) %d+ (%d+)')
      if number and tonumber(last) >= since then
        if not of[all[i]] then
          of[all[i]] = {name = all[i], retrying = 0, dead = 0}
          groups[#groups + 1] = of[all[i]]
        end
        of[all[i]][kind] = tonumber(number)
      end
    end
  end
  add(retrygroups, 'retrying')
  add(deadgroups, 'dead')
  table.sort(groups, function(one, other) return one.retrying + one.dead > other.retrying + other.dead end)
  local found, rest = {0}, 0
  for i, group in ipairs(groups) do
    if i <= GROUPS_TOLD then
      found[#found + 1], found[#found + 2], found[#found + 3] = group.name, group.retrying, group.dead
    else
      rest = rest + group.dead
    end
  end
  found[1] = rest
  return found
end

local ghosts = tonumber(redis.call('HGET', meta, 'ghosts') or 0)
local ready = math.max(0, redis.call('LLEN', queue) - ghosts) + redis.call('ZCARD', returned) + redis.call('ZCARD', priority)
local in_flight = redis.call('HLEN', holders) + redis.call('LLEN', ackbuf) + redis.call('LLEN', backup)
  + redis.call('ZCARD', ackbuf_aging)
local later = redis.call('ZCARD', delayed)
local old = oldest()
local noted = old and redis.call('HGET', waiting, old)
return {
  string.format('%.0f', now), ready, in_flight, later, math.min(later, redis.call('HLEN', retrying)), redis.call('ZCARD', dead),
  redis.call('ZCOUNT', leases, -now, '(0'), redis.call('ZCOUNT', delayed, '-inf', now) + redis.call('ZCOUNT', leases, 0, now),
  redis.call('HGET', meta, 'layout') or '', redis.call('GET', paused) or '',
  old or '', old and (noted and '{"time":' .. noted .. '}' or redis.call('HGET', headers, old)) or '',
  counted(), redis.call('HGETALL', consumers), redis.call('HGETALL', meta),
  periods('minute', 'm', 60000, MINUTES, tonumber(ARGV[1])), periods('hour', 'h', 3600000, HOURS, tonumber(ARGV[2])),
  tonumber(ARGV[3]) > 0 and failing(now - ARGV[3]) or {0},
  redis.call('ZCARD', finished),
}
