#!lua
-- Adds items that are not in the queue yet.
-- ARGV[3]  the terms, separated by spaces:
--   priority: -100 to 100
--   delay (ms), or @ and the due time (ms); ready at once when the delay is 0 or the due time is past
--   max_length: items ready and delayed at most; 0: any number
--   own: 1 when the caller chose the uids, 0 when they were generated for this call; 2: as 1, but a dead item that has
--     such a uid is deleted, and the new one added
--   unique: how long (ms) the uids count as there after the acks of their items; 0: not at all
--   attempt: 0; or, for a single item, above 0: after a refusal, a repeat with a higher attempt is decided anew
-- ARGV[4…] per item: uid, payload, headers (JSON object, or '' for none)
-- Reply: "added" and per item 1 (added) or the state of the item that has this uid already (done: it was acked, and the
--   uid counts as there), separated by spaces;
--   or, with nothing added: "full", the length and the attempt; or, only with an attempt: "there", the state of the
--   item that has this uid, and the attempt.
-- include: keys begin wake
local refused = repeated and not string.find(repeated, '^added') and string.match(repeated, '%d+$')
if refused and tonumber(string.match(ARGV[3], '%d+$')) > tonumber(refused) then
  repeated = nil
end
if repeated then
  return repeated
end

-- The fast path, for the common case: all items have the usual terms and no headers, so that one command for each key
-- adds them all.
local plain = ARGV[3] == '0 0 0 0 0 0'
for i = 4, #ARGV, 3 do
  plain = plain and ARGV[i + 2] == ''
end
if plain then
  local number = (#ARGV - 3) / 3
  if number == 1 then
    redis.call('LPUSH', queue, ARGV[4])
    redis.call('HSET', items, ARGV[4], ARGV[5])
  else
    local uids, fields = {}, {}
    for i = 1, number do
      local uid = ARGV[3 * i + 1]
      uids[i] = uid
      fields[2 * i - 1], fields[2 * i] = uid, ARGV[3 * i + 2]
    end
    redis.call('LPUSH', queue, unpack(uids))
    redis.call('HSET', items, unpack(fields))
  end
  count('put', number)
  ring(number)
  return finish('added' .. string.rep(' 1', number))
end

-- include: records removal lifecycle state uniques results
local moment, delay, most, chosen, unique, attempt = string.match(ARGV[3], '^%S+ (@?)(%S+) (%d+) (%d) (%d+) (%d+)$')
local limit, own, moved = tonumber(most), chosen ~= '0', attempt ~= '0'
unique = tonumber(unique)
local due = moment == '@' and tonumber(delay) or now + tonumber(delay)
local late = due > now
local outcome, new, replaced = {'added'}, {}, {}
for i = 4, #ARGV, 3 do
  local uid = ARGV[i]
  local state = own and (new[uid] and 'ready' or redis.call('HEXISTS', items, uid) == 1 and state_of(uid))
  if state == 'dead' and chosen == '2' then
    state, replaced[uid] = false, true
  end
  if state then
    outcome[#outcome + 1] = state
  elseif own and not moved and not replaced[uid] and is_done(uid) then
    outcome[#outcome + 1] = 'done'
  else
    outcome[#outcome + 1] = '1'
    new[uid] = true
    new[#new + 1] = i
  end
end

if #new == 0 and moved then
  return finish('there ' .. outcome[2] .. ' ' .. attempt)
end
if limit > 0 and #new > 0 then
  local ghosts = tonumber(redis.call('HGET', meta, 'ghosts') or 0)
  local length = redis.call('LLEN', queue) - ghosts + redis.call('ZCARD', returned)
    + redis.call('ZCARD', priority) + redis.call('ZCARD', delayed)
  if length + #new > limit then
    return finish('full ' .. length .. ' ' .. attempt)
  end
end

-- The payload is written last: if a key turns out to belong to something else, a ghost is left behind, which a claim
-- drops, and not an item that no claim finds.
local function add(uid, payload, extra)
  if own then
    forget(uid)
    forget_result(uid)
    if replaced[uid] then
      count('dropped')
    end
  end
  if own or late or extra ~= '' then
    local known = '{"number":' .. redis.call('HINCRBY', meta, 'puts', 1) .. ',"time":' .. now
    if late then
      known = known .. ',"due":' .. due
    end
    if unique > 0 then
      known = known .. ',"unique":' .. unique
      note_unique(uid, unique, late and due or now)
    end
    redis.call('HSET', headers, uid, known .. (extra ~= '' and ',' .. string.sub(extra, 2) or '}'))
  end
  if late then
    postpone(uid, due)
  else
    place(uid)
  end
  redis.call('HSET', items, uid, payload)
end

for _, i in ipairs(new) do
  add(ARGV[i], ARGV[i + 1], ARGV[i + 2])
end
if #new > 0 then
  count('put', #new)
  if not late then
    ring(#new)
  end
end
return finish(table.concat(outcome, ' '))
