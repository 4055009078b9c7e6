-- Needs begin.

-- The deadline of a lease (ms) that begins now, as it is stored: negative when it is never to be recovered automatically.
local function deadline_of(lease, recovers)
  return recovers and now + lease or -(now + lease)
end
