-- Refuses a call that its user may not carry out to the end, before it changes anything: in the middle, the server would
-- leave what was done by then. Needs keys; RIGHTS stands for the commands of the script, which scripts.py finds.
-- Replies with the error SRQRIGHTS and the commands that are missing then. A service may have no such function.
local missing = ''
for command in string.gmatch(RIGHTS, '%u+') do
  local told, may = pcall(redis.acl_check_cmd, command, meta)
  if told and not may then
    missing = missing .. ' ' .. command
  end
end
if missing ~= '' then
  return redis.error_reply('SRQRIGHTS' .. missing)
end
