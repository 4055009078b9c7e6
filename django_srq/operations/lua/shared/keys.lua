-- The keys of one queue, in the order in which every script gets them, each with its type.
-- This file is the only place that knows the order and the types. scripts.py reads them from here; it puts LAYOUT, the
-- version of the layout, in front of this file, and makes the table "types" of them, for "include: types".
local items,          -- hash: uid -> payload; every item that is not settled
      queue,          -- list: ready uids; put at the left, taken from the right
      ackbuf,         -- list: uids that saferedisqueue consumers hold
      backup,         -- list: the same, after one autoclean interval
      backuplock,     -- string: saferedisqueue's lock for its autoclean
      ackbuf_aging,   -- zset: uid -> microseconds; what saferedisqueue 4.0b0 has instead of backup
      returned,       -- zset: uid -> order number of its first claim; ready again, served before queue
      priority,       -- zset: uid -> score; ready, priority other than 0
      delayed,        -- zset: uid -> due time (ms)
      holders,        -- hash: uid -> token; in flight
      leases,         -- zset: uid -> deadline (ms); negative: never recovered automatically; fraction >= .5: moved once
      deliveries,     -- hash: uid -> "count claim": deliveries that ended without an ack, the claim that lapsed last
      crashes,        -- hash: uid -> deliveries that ended with the consumer's death
      dead,           -- zset: uid -> time of its death (ms)
      deadgroups,     -- hash: fingerprint -> "count first last uid"; first and last death (ms), an example
      retrying,       -- hash: uid -> fingerprint; delayed after an error
      retrygroups,    -- hash: fingerprint -> "count first last uid"; as deadgroups, of the items in retrying
      errors,         -- hash: uid -> JSON; the last error, and up to four (or "keep") before it
      headers,        -- hash: uid -> JSON; number and time of the put, due time, priority, the caller's headers
      waiting,        -- hash: uid -> since when it waits (ms), where that is neither its put nor its due time
      uniques,        -- zset: uid -> end (ms) of the time in which it counts as there, also after its item is gone
      results,        -- hash: uid -> JSON; what is kept of an item after its ack: for how long, the payload, the outcome
      finished,       -- zset: uid -> when it was acked (ms), if its result is kept; a fraction keeps the order
      slots,          -- hash: slot -> "seq time outcome"
      wake,           -- list: tokens that wake idle consumers
      stats,          -- hash: counter -> number
      consumers,      -- hash: consumer -> JSON
      paused,         -- string: JSON; by, reason, since, until
      meta            -- hash: layout version, counters, what is known of the server and the leases
      = unpack(KEYS)
