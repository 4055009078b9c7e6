-- Records: what is known of an item besides its payload. Needs keys.

-- In the common case no item has records, and nothing more has to be read.
local function has_records()
  return redis.call('EXISTS', deliveries, crashes, errors, headers) > 0
end

local function about(uid)
  local text = redis.call('HGET', headers, uid)
  return text and cjson.decode(text) or {}
end

-- An error as it is stored (JSON), without those before it, which are its last field. Within a text of JSON, a quotation
-- mark has a backslash before it, so that this finds the field and no text.
local function without_earlier(stored)
  local at = string.find(stored, ',"earlier":[', 1, true)
  return at and string.sub(stored, 1, at - 1) .. '}' or stored
end

-- The last error of an item; nil when it has none.
local function last_error(uid)
  local stored = redis.call('HGET', errors, uid)
  return stored and cjson.decode(without_earlier(stored)) or nil
end

-- How many deliveries of an item ended without an ack, and the number of the claim whose lease ended last, if its
-- holder may take the item back ('0': none).
local function deliveries_of(uid)
  local ended, claim = string.match(redis.call('HGET', deliveries, uid) or '0 0', '^(%d+) (%d+)$')
  return tonumber(ended), claim
end
