#!lua
-- Adds items that are not in the queue yet.
-- ARGV[3]  the terms, separated by spaces:
--   priority: -100 to 100
--   delay (ms), or @ and the due time (ms); ready at once when it is 0 or over
--   max_length: most items ready and delayed; 0: any number
--   own: 1 when the caller chose the uids, 0 when they were generated for this call
--   attempt: above 0, of a single item; the same call with a higher one asks again where an earlier one was refused; else 0
-- ARGV[4…] per item: uid, payload, headers (JSON object, or '' for none)
-- Reply: "added" and per item 1 (added) or the state in which the uid is already there, separated by spaces;
--   or "full", the length and the attempt, or for an attempt "there", the state and the attempt; then nothing was added.
-- include: keys begin wake
local refused = repeated and not string.find(repeated, '^added') and string.match(repeated, '%d+$')
if refused and tonumber(string.match(ARGV[3], '%d+$')) > tonumber(refused) then
  repeated = nil
end
if repeated then
  return repeated
end

-- Nothing special about any of them: as many as go into one command. Mostly so, and all that has to be made ready.
local plain = ARGV[3] == '0 0 0 0 0'
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

-- include: records removal lifecycle
local moment, delay, most, chosen, attempt = string.match(ARGV[3], '^%S+ (@?)(%S+) (%d+) (%d) (%d+)$')
local limit, own = tonumber(most), chosen == '1'
local due = moment == '@' and tonumber(delay) or now + tonumber(delay)
local late = due > now
local outcome, new = {'added'}, {}
for i = 4, #ARGV, 3 do
  local uid = ARGV[i]
  if own and (new[uid] or redis.call('HEXISTS', items, uid) == 1) then
    outcome[#outcome + 1] = new[uid] and 'ready' or state_of(uid)
  else
    outcome[#outcome + 1] = '1'
    new[uid] = true
    new[#new + 1] = i
  end
end

if #new == 0 and attempt ~= '0' then
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

-- The payload comes last: should a key turn out to be somebody else's, what is left is a ghost and not a lost item.
local function add(uid, payload, extra)
  if own then
    forget(uid)
  end
  if own or late or extra ~= '' then
    local known = '{"number":' .. redis.call('HINCRBY', meta, 'puts', 1) .. ',"time":' .. now
    if late then
      known = known .. ',"due":' .. due
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
