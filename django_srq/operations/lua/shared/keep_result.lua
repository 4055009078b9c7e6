-- Needs keys, records, results.

-- The errors of an item as a list (JSON), the newest first, from an entry of errors.
local function listed_errors(stored)
  local at, ends = string.find(stored, ',"earlier":[', 1, true)
  return '[' .. (at and string.sub(stored, 1, at - 1) .. '},' .. string.sub(stored, ends + 1, -2) or stored .. ']')
end

-- Keeps the result of an item, with its records, which are still there. The arguments and the result are those of
-- write_result; recorded: whether any item may have records.
local function keep_result(uid, kept, payload, token, recorded)
  local known = recorded and redis.call('HGET', headers, uid)
  local failed = recorded and redis.call('HGET', errors, uid)
  local delivered = redis.call('HEXISTS', holders, uid) + (recorded and deliveries_of(uid) or 0)
  return write_result(uid, kept, payload, token, token == '' and delivered or math.max(delivered, 1),
    (known and ',"headers":' .. known or '') .. (failed and ',"errors":' .. listed_errors(failed) or ''))
end
