-- A section of INFO; '' where the user may not call it, or where no script may, as with some services. The check before
-- the call keeps the server's log of refused commands (ACL LOG) empty.
local function info(section)
  local told, may = pcall(redis.acl_check_cmd, 'INFO', section)
  local said = (may or not told) and redis.pcall('INFO', section)
  return type(said) == 'string' and said or ''
end
