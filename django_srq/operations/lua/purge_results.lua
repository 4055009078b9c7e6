#!lua flags=allow-oom
-- Deletes results, the oldest first.
-- ARGV[3]  most: results to delete at most; fewer when they have more than 64 times MOST_BYTES, which take time to free
-- Reply: how many this call deleted, a space, and how many are left.
-- include: keys begin records results most_bytes
if repeated then
  return repeated
end
local found, gone, bytes = redis.call('ZRANGE', finished, 0, ARGV[3] - 1), {}, 0
for i, uid in ipairs(found) do
  if bytes > 64 * MOST_BYTES then
    break
  end
  gone[i], bytes = uid, bytes + redis.call('HSTRLEN', results, uid)
end
forget_results(gone)
return finish(#gone .. ' ' .. redis.call('ZCARD', finished))
