-- The opening of every script that changes something. Needs keys.
--   ARGV[1] slot: who calls; ARGV[2] seq: the number of the call in that slot.
-- This file runs at its place, as keys and check_layout do and no other include: it ends the script with an error, and
-- all parts of the script use the variables that it leaves behind:
--   now        the time (ms)
--   repeated   the stored outcome, when this very call was carried out before; else nil
--   facts      fields of meta
--   seconds, tallies   for finish: see series
-- Replies with an error, and changes nothing: SRQLATE (a later call in this slot was carried out), SRQLAYOUT (the keys
-- have another layout version), SRQTYPE (a key has another type), SRQRIGHTS (the user lacks rights).
local known = redis.pcall('HGET', slots, ARGV[1])
if type(known) == 'table' then
  return known   -- an error
end
-- The user of an unknown slot may never have called before, so that its rights are checked. A user that calls again had
-- its rights.
if not known then
  -- include: rights
  local refusal = lack_of_rights()
  if refusal then
    return refusal
  end
end

-- include: clock
local now, seconds = server_time()

local repeated
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
local tallies = {}
-- include: series

if facts.layout and facts.layout ~= tonumber(LAYOUT) then
  return redis.error_reply('SRQLAYOUT ' .. facts.layout .. ' ' .. LAYOUT)
end

-- Once a second, or ten times per lease where that is more often: has the user its rights, is it the same server, and
-- was the server away?
local pause = math.min(1000, (facts.lease_c or 10000) / 10)
local unseen = now - (facts.seen or 0)
local looks = unseen >= pause or unseen < 0
local run_id, run
if looks then
  -- include: rights run
  local refusal = lack_of_rights()
  if refusal then
    return refusal
  end
  run_id, run = server_run()
end

-- As often: have the keys the right types? But where no item is ready, delayed or in flight, a claim changes no item,
-- and idle consumers repeat it on each of their queues: there, only once a minute. (IDLE: whether idle consumers call
-- this script.) The keys of another run may be those of a backup.
local untyped = run == 'another' and now or now - (facts.typed or 0)
if (untyped >= pause or untyped < 0) and not (IDLE and untyped >= 0 and untyped < 60000
  and redis.call('EXISTS', queue, returned, priority, delayed, holders, wake) == 0) then
  -- include: key_types
  local refusal = wrong_type()
  if refusal then
    return refusal
  end
  redis.call('HSET', meta, 'typed', now)
end
if looks then
  -- include: outage
  note_look(run_id, run)
end
