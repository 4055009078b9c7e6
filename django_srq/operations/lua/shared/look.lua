-- How often idle consumers claim.
local LOOK = 5000   -- ms after which an idle consumer claims by itself, without a wake token
