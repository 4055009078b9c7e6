-- Unique uids: a uid that was put with unique_for counts as there until its item was acked so long ago. Needs keys, begin,
-- records.
-- The put notes the time, counted from itself, and the ack prolongs it. So when a version that does not know this key
-- acks the item, the uid still counts as there for so long after its put.
-- include: uniques_most
local TRIMMED = 2   -- for each uid that is noted: one more than is added, so that those whose time is over get fewer

-- Whether the uid counts as there although its item is gone.
local function is_done(uid)
  local ends = redis.call('ZSCORE', uniques, uid)
  return ends and tonumber(ends) > now
end

-- Forgets uids whose time is over, at most so many; but if the item is still in the queue, its time begins anew.
local function trim_uniques(most)
  for _, uid in ipairs(redis.call('ZRANGE', uniques, '-inf', now, 'BYSCORE', 'LIMIT', 0, most)) do
    local time = redis.call('HEXISTS', items, uid) == 1 and about(uid).unique
    if time then
      redis.call('ZADD', uniques, now + time, uid)
    else
      redis.call('ZREM', uniques, uid)
    end
  end
end

-- Lets a uid count as there for so long (ms) after a moment. When there are too many, those whose time ends first are
-- forgotten: their items may be handled twice, while a put that was refused would lose its item.
local function note_unique(uid, time, moment)
  redis.call('ZADD', uniques, 'GT', moment + time, uid)
  trim_uniques(TRIMMED)
  local beyond = redis.call('ZCARD', uniques) - UNIQUES_MOST
  for _, soonest in ipairs(beyond > 0 and redis.call('ZRANGE', uniques, 0, beyond - 1) or {}) do
    redis.call('ZREM', uniques, soonest)
  end
end

-- Lets a uid be put again at once, as its item was deleted on purpose.
local function forget_unique(uid)
  redis.call('ZREM', uniques, uid)
end
