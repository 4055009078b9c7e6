-- Refuses a call that its user may not carry out to the end, before the call changes anything: if the server refused a
-- command in the middle, it would not undo the changes before it. Needs keys; RIGHTS stands for the commands of the
-- script, which scripts.py finds. Replies with the error SRQRIGHTS and the missing commands then. Some services do not
-- have the function that tells a user's rights.
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
