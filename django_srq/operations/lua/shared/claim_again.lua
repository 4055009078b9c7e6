-- A claim that is repeated, after it was carried out. Needs keys, begin, wake, records, removal, lifecycle, handing_out.

-- Gives back the items that the caller still holds: uids and tokens. If there is a single one in a reply that cannot be
-- read, it is the cause of that, and has failed: in its old place it would come next again, and hold up all other items
-- for ever.
local function give_back_all(ours, consumer, unread, max_deliveries)
  if #ours == 1 and unread then
    local uid, token = unpack(ours[1])
    local failure = {type = 'ReplyUnread', message = 'the consumer could not read it to its end', consumer = consumer}
    if end_delivery(uid, token) >= max_deliveries and max_deliveries > 0 then
      bury(uid, failure, token)
    else
      record(uid, failure, token)
      place(uid)
    end
    unhold(uid)
    count('failed')
  elseif #ours > 0 then
    for _, delivery in ipairs(ours) do
      give_back(unpack(delivery))
    end
    count('released', #ours)
  end
  ring(#ours)
end

-- Replies as the original did; but with n below 0, gives back what the original handed out: see claim.lua, ARGV[6].
-- outcome: of the original; deadline: of the renewed leases.
local function claim_again(outcome, consumer, n, max_deliveries, deadline, recorded, suspected)
  local flags, wait, held_up, taken = string.match(outcome, '^(%S*) (%S+) (%S+)(.*)$')
  local ours, reply = {}, {flags, wait, held_up}
  for uid, token in string.gmatch(taken, ' (%S+) (%S+)') do
    if is_held(uid, token) then
      ours[#ours + 1] = {uid, token}
    end
  end
  if n < 0 then
    give_back_all(ours, consumer, n == -2, max_deliveries)
    finish(flags .. ' 0 0')
    return {flags, '0', '0'}
  end
  for _, delivery in ipairs(ours) do
    local uid, token = unpack(delivery)
    redis.call('ZADD', leases, deadline, uid)
    describe(reply, uid, token, redis.call('HGET', items, uid), recorded, suspected)
  end
  return reply
end
