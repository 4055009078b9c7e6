#!lua flags=no-writes
-- Says which keys have uids, all at one moment. For the audit, and to look up single items.
-- ARGV[1]  deep: 1 to search the lists, too (which takes time in proportion to their length), else 0
-- ARGV[2…] uids
-- Reply: per uid its places, separated by commas: items, queue, ackbuf, backup, ackbuf_aging, returned, priority,
--   delayed, retrying, holders, leases, dead, deliveries, crashes, errors, headers, waiting, results, finished; uniques:
--   it counts as there although its item is gone.
-- include: keys check_layout clock
local now = server_time()
-- include: uniques
local reply = {}
local function look(places, name, found)
  if found and found ~= 0 then
    places[#places + 1] = name
  end
end
for i = 2, #ARGV do
  local uid, places = ARGV[i], {}
  local there = redis.call('HEXISTS', items, uid) == 1
  look(places, 'items', there)
  look(places, 'uniques', not there and is_done(uid))
  look(places, 'returned', redis.call('ZSCORE', returned, uid))
  look(places, 'priority', redis.call('ZSCORE', priority, uid))
  look(places, 'delayed', redis.call('ZSCORE', delayed, uid))
  look(places, 'retrying', redis.call('HEXISTS', retrying, uid))
  look(places, 'holders', redis.call('HEXISTS', holders, uid))
  look(places, 'leases', redis.call('ZSCORE', leases, uid))
  look(places, 'dead', redis.call('ZSCORE', dead, uid))
  look(places, 'deliveries', redis.call('HEXISTS', deliveries, uid))
  look(places, 'crashes', redis.call('HEXISTS', crashes, uid))
  look(places, 'errors', redis.call('HEXISTS', errors, uid))
  look(places, 'headers', redis.call('HEXISTS', headers, uid))
  look(places, 'waiting', redis.call('HEXISTS', waiting, uid))
  look(places, 'results', redis.call('HEXISTS', results, uid))
  look(places, 'finished', redis.call('ZSCORE', finished, uid))
  look(places, 'ackbuf_aging', redis.call('ZSCORE', ackbuf_aging, uid))
  if ARGV[1] == '1' then   -- LPOS counts from 0, or finds nothing
    look(places, 'queue', redis.call('LPOS', queue, uid) and 1)
    look(places, 'ackbuf', redis.call('LPOS', ackbuf, uid) and 1)
    look(places, 'backup', redis.call('LPOS', backup, uid) and 1)
  end
  reply[#reply + 1] = table.concat(places, ',')
end
return reply
