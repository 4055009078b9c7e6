-- Items that were in hand when a consumer died: each may be what it died of. Needs keys, call, tell; consumer, suspected.
-- A consumer that had two of them in hand, in one process or in two, would die of the one and have the other blamed again.
-- Meanwhile it goes on with the items behind them.
local PASSED_MOST = 1000   -- suspects of one place (returned, priority, queue) behind which it looks for others

local function is_suspect(uid)
  return suspected and tonumber(redis.call('HGET', crashes, uid) or 0) > 0
end

-- The consumer with all its processes, and where slots keeps which suspect it got last, and when.
local whole = string.match(consumer, '^[^.]*')
local apart = whole .. '.apart'

-- Whether the consumer still holds the last one, and got it not long ago: one that hangs must not hold up the others for ever.
local function holds_suspect()
  local got, uid = string.match(redis.call('HGET', slots, apart) or '', '^0 %d+ (%d+) (.+)$')
  local holder = uid and now - got < APART and redis.call('HGET', holders, uid)
  return holder and string.match(holder, '^[^/.]*') == whole
end

-- A plain get stands for itself, whoever else gets in that process.
local function note_suspect(uid)
  if string.sub(consumer, 1, 1) == 'c' then
    redis.call('HSET', slots, apart, '0 ' .. now .. ' ' .. now .. ' ' .. uid)
  end
end

-- So many items that are no suspects, or as many as there are, in the order in which they are handed out; each as its uid,
-- the key that it is in, and its score there.
local function behind_suspects(number)
  -- include: order
  local look = number + math.min(redis.call('HLEN', crashes), PASSED_MOST)   -- there are no more suspects than that
  local found = {}
  for _, section in ipairs(sections.ready()) do
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

-- Wakes another consumer for what this one does not get, once a second: it might be this one that is woken again.
local function pass_on_suspect()
  local rung, rest = string.match(redis.call('HGET', slots, apart), '^0 (%d+) (.+)$')
  if now - rung >= CROWDED then
    redis.call('HSET', slots, apart, '0 ' .. now .. ' ' .. rest)
    ring(1)
  end
end
