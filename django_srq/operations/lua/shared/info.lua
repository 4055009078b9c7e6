-- A section of what the server tells of itself; '' where a user may not ask, or no script may, as with some services.
-- To ask first keeps the server's log of refused commands empty.
local function info(section)
  local told, may = pcall(redis.acl_check_cmd, 'INFO', section)
  local said = (may or not told) and redis.pcall('INFO', section)
  return type(said) == 'string' and said or ''
end
