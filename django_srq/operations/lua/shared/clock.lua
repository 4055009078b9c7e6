-- The server's time (ms); and in whole seconds, by the digits that the server replied.
local function server_time()
  local clock = redis.call('TIME')
  return clock[1] * 1000 + math.floor(clock[2] / 1000), clock[1]
end
