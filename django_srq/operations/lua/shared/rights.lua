-- Needs keys; RIGHTS stands for the commands of the script, which scripts.py finds.

-- The error SRQRIGHTS with the commands that the user of the call has no right to; nil when it has all rights. A script
-- asks before it changes anything: if the server refused a command in the middle, it would not undo the changes before
-- it. Some services do not have the function that tells a user's rights.
local function lack_of_rights()
  local missing = ''
  for command in string.gmatch(RIGHTS, '%u+') do
    local told, may = pcall(redis.acl_check_cmd, command, meta)
    if told and not may then
      missing = missing .. ' ' .. command
    end
  end
  return missing ~= '' and redis.error_reply('SRQRIGHTS' .. missing) or nil
end
