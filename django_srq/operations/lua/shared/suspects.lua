-- Suspects: items that were in hand when a consumer died, each of which may be the cause. Needs keys, begin, wake. If a
-- consumer had two suspects in hand, in one process or in two, it could die of the one, and the other would be blamed
-- again. While it has one, it goes on with the items behind the others.
local PASSED_MOST = 1000   -- suspects of one place (returned, priority, queue) behind which it looks for others
local APART = 60000        -- ms for which a consumer that holds a suspect gets no other suspect
local CROWDED = 1000       -- ms after which such a consumer may ask again

local function is_suspect(uid)
  return tonumber(redis.call('HGET', crashes, uid) or 0) > 0
end

-- The consumer with all its processes.
local function whole_of(consumer)
  return string.match(consumer, '^[^.]*')
end

-- The field of slots that says which suspect the consumer got last, and when.
local function apart_of(consumer)
  return whole_of(consumer) .. '.apart'
end

-- Whether the consumer still holds the suspect that it got last, and got it not long ago: a suspect that hangs must not
-- hold up the others for ever.
local function holds_suspect(consumer)
  local got, uid = string.match(redis.call('HGET', slots, apart_of(consumer)) or '', '^0 %d+ (%d+) (.+)$')
  local holder = uid and now - got < APART and redis.call('HGET', holders, uid)
  return holder and string.match(holder, '^[^/.]*') == whole_of(consumer)
end

-- Notes that the consumer got a suspect. A plain get stands for itself alone, and is not noted: it does not matter what
-- other gets of its process hold.
local function note_suspect(consumer, uid)
  if string.sub(consumer, 1, 1) == 'c' then
    redis.call('HSET', slots, apart_of(consumer), '0 ' .. now .. ' ' .. now .. ' ' .. uid)
  end
end

-- So many ready items that are no suspects, or all if there are fewer, in the order in which they are handed out; each
-- as its uid, the key that it is in, and its score there.
local function behind_suspects(number)
  -- include: order
  local look = number + math.min(redis.call('HLEN', crashes), PASSED_MOST)   -- there are no more suspects than that
  local found = {}
  for _, section in ipairs(sections_of('ready')) do
    local size, range, key = section[1], section[2], section[3] or queue
    local listed = size > 0 and range(0, math.min(size, look) - 1) or {}
    for i = 1, #listed, 2 do
      if #found == number then
        return found
      end
      if not is_suspect(listed[i]) then
        found[#found + 1] = {listed[i], key, listed[i + 1]}
      end
    end
  end
  return found
end

-- Wakes a consumer for the suspects that this one does not get, once a second at most: the token may wake this one.
-- Returns the time (ms) after which this one may ask again.
local function pass_on_suspect(consumer)
  local rung, rest = string.match(redis.call('HGET', slots, apart_of(consumer)), '^0 (%d+) (.+)$')
  if now - rung >= CROWDED then
    redis.call('HSET', slots, apart_of(consumer), '0 ' .. now .. ' ' .. rest)
    ring(1)
  end
  return CROWDED
end
