-- The beginning of every call that changes something. Needs keys.
--   ARGV[1] slot: who calls; ARGV[2] seq: the number of the call in that slot.
-- Leaves behind: now (ms), repeated (the stored outcome, when this very call was carried out before, else nil),
-- facts (fields of meta), is_due() (whether it is time for housekeeping), count(counter, by), finish(outcome).
-- Replies with an error, and changes nothing: SRQLATE (a later call in this slot was carried out), SRQLAYOUT (the keys
-- have another layout version), SRQTYPE (a key has another type), SRQRIGHTS (the user lacks rights).
local repeated
local known = redis.pcall('HGET', slots, ARGV[1])
if type(known) == 'table' then
  return known   -- an error
end
-- The user of an unknown slot may never have called before, so that its rights are checked. A user that calls again had
-- its rights.
if not known then
  -- include: rights
end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

if known then
  local ahead = string.match(known, '^%d+') - ARGV[2]   -- a number: Lua reads both as such
  if ahead > 0 then
    return redis.error_reply('SRQLATE a later call of this slot was carried out before')
  end
  if ahead == 0 then
    repeated = string.match(known, '^%d+ %d+ (.*)$')
  end
end

-- The fields of meta, as numbers, that the script uses as facts.<field>. FACTS stands for them: scripts.py puts in the
-- code that reads them.
--   layout, seen, kept   version of the layout; times (ms) of the last look at the server, and of the last housekeeping
--   typed                time (ms) of the last look at the types of the keys
--   lease_c, lease_g     leases (ms) of the last claims: by a supervised consumer, and by a plain get
--   longest              the longest lease (ms) ever asked for
--   most                 max_in_flight of the last claim; nil: none
--   told                 time (ms) until which a consumer is coming anyway (told_to names it), as the rate allows
--                        nothing sooner
--   minute               number of the running minute of the time series
local facts = FACTS

-- Whether it is time for housekeeping.
local function is_due()
  return now >= (facts.kept or 0) + 1000 or now < facts.kept
end

-- include: series
-- Writes the counts of this call, and its outcome, so that a repeat of it gets the same answer. The time is written in
-- whole seconds, by the digits that TIME replied: to format a number takes longer, and no reader needs milliseconds.
local function finish(outcome)
  -- include: tallies
  redis.call('HSET', slots, ARGV[1], ARGV[2] .. ' ' .. clock[1] .. '000 ' .. outcome)
  return outcome
end

if facts.layout and facts.layout ~= tonumber(LAYOUT) then
  return redis.error_reply('SRQLAYOUT ' .. facts.layout .. ' ' .. LAYOUT)
end

-- Once a second, or ten times per lease where that is more often: has the user its rights, is it the same server, and
-- was the server away?
local pause = math.min(1000, (facts.lease_c or 10000) / 10)
local unseen = now - (facts.seen or 0)
local looks = unseen >= pause or unseen < 0
local run_id, goes_on, restarted
if looks then
  -- include: rights
  -- include: run
end

-- As often: have the keys the right types? But where no item is ready, delayed or in flight, a claim changes no item,
-- and idle consumers repeat it on each of their queues: there, only once a minute. (IDLE: whether idle consumers call
-- this script.)
local untyped = now - (facts.typed or 0)
if (untyped >= pause or untyped < 0) and not (IDLE and untyped >= 0 and untyped < 60000
  and redis.call('EXISTS', queue, returned, priority, delayed, holders, wake) == 0) then
  -- include: types
  for i, key in ipairs(KEYS) do
    local found = redis.call('TYPE', key).ok
    if found ~= 'none' and found ~= types[i] then
      return redis.error_reply('SRQTYPE ' .. key .. ' holds a ' .. found .. ' where a ' .. types[i] .. ' is expected')
    end
  end
  redis.call('HSET', meta, 'typed', now)
end
if looks then
  -- include: outage
end
