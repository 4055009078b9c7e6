-- The order of the items of a state, or of one key: sections that follow each other. Needs keys.
-- A section is {number of uids, function(from, to), key of a zset}; the function returns uids and scores in turn, and
-- whether they come from the list.
local function zset_section(key, low, high)
  local first = low == '-inf' and 0 or redis.call('ZCOUNT', key, '-inf', '(0')
  return {redis.call('ZCOUNT', key, low, high), function(from, to)
    return redis.call('ZRANGE', key, first + from, first + to, 'WITHSCORES')
  end, key}
end

local function list_section()
  return {redis.call('LLEN', queue), function(from, to)
    local uids, pairs_ = redis.call('LRANGE', queue, -to - 1, -from - 1), {}
    for i = #uids, 1, -1 do
      pairs_[#pairs_ + 1] = uids[i]
      pairs_[#pairs_ + 1] = '0'
    end
    return pairs_, true
  end}
end

-- place: a state; or one of the keys of ready items, returned or priority.
local function sections_of(place)
  if place == 'ready' then
    return {zset_section(priority, '-inf', '(0'), zset_section(returned, '-inf', '+inf'), list_section(),
      zset_section(priority, '(0', '+inf')}
  end
  local keys = {in_flight = leases, delayed = delayed, dead = dead, returned = returned, priority = priority}
  return {zset_section(keys[place], '-inf', '+inf')}
end

-- Whether the item of a uid in a section is really there: a uid from the list may be a ghost.
local function is_there(uid, from_list)
  return redis.call('HEXISTS', items, uid) == 1 and not (from_list and (redis.call('HEXISTS', holders, uid) == 1
    or redis.call('ZSCORE', delayed, uid) or redis.call('ZSCORE', dead, uid) or redis.call('ZSCORE', returned, uid)
    or redis.call('ZSCORE', priority, uid)))
end
