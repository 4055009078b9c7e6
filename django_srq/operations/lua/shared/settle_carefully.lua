-- Needs keys, begin, records, removal, settle.

-- Acks one item, by token and number as in settle, and counts it; returns whether it was there. The work is done,
-- wherever the item is now; but an item that was put anew with the same uid has another number, and stays.
local function settle_carefully(uid, token, number, recorded)
  if token == '' then
    token = redis.call('HGET', holders, uid)
    if not token then
      return false
    end
  elseif (recorded or number ~= '') and tostring(about(uid).number or '') ~= number then
    return false
  end
  if unhold(uid) == 0 and redis.call('HEXISTS', items, uid) == 1 then
    remove_unheld(uid)
    count('acked')
    return true
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
  return true
end
