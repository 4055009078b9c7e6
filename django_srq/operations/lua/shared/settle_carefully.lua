-- Needs keys, begin, records, removal, settle.
-- include: uniques results keep_result

-- Acks one item, by token ('': any holder's) and number of the put ('': the uid was generated), and counts it; returns
-- whether it was there. The work is done, wherever the item is now; but an item that was put anew with the same uid has
-- another number, and stays. kept: for keep_result, or nil; returns also what that returned.
local function settle_one(uid, token, number, kept, recorded)
  local known = (recorded or number ~= '') and about(uid) or {}
  if token == '' then
    token = redis.call('HGET', holders, uid)
    if not token then
      return false
    end
  elseif tostring(known.number or '') ~= number then
    return false
  end
  if known.unique and redis.call('HEXISTS', items, uid) == 1 then
    note_unique(uid, known.unique, now)
  end
  -- The result is written first: if a key turns out to belong to something else, the item is still there.
  local payload = kept and redis.call('HGET', items, uid)
  local most = payload and keep_result(uid, kept, payload, token, recorded)
  if unhold(uid) == 0 and redis.call('HEXISTS', items, uid) == 1 then
    remove_unheld(uid)
    count('acked')
    return true, most
  end
  -- The payload is deleted first: if a key turns out to belong to something else, the rest is dropped when a claim
  -- meets it.
  local there = redis.call('HDEL', items, uid) == 1
  if recorded then
    delete_records(uid)
  end
  if not there then
    forget(uid)
    return false
  end
  count_settled(token)
  return true, most
end

-- Acks the items that ARGV names from an index on; adds '1' to the flags for each that was there, '0' for each other.
-- recorded: whether any item may have records.
local function settle_carefully(at, flags, recorded)
  local added, limit = 0, nil
  for i = at, #ARGV, 3 do
    local number, kept = string.match(ARGV[i + 2], '^(%S*)( .*)$')
    local there, most = settle_one(ARGV[i], ARGV[i + 1], number or ARGV[i + 2], kept, recorded)
    if most then
      added, limit = added + 1, most
    end
    flags[#flags + 1] = there and '1' or '0'
  end
  if limit then
    limit_results(added, limit)
  end
end
