"""The operations on a queue: each is one Lua script, which the server carries out as one step. Does no I/O.

This package alone knows the Lua files, the order of their KEYS and ARGV, and the shape of their replies. Each function
makes a ``Call``: a script, its keys and arguments, and how its reply is read. A link (``django_srq.transport``) sends
it, in a thread or in an event loop.

puts.py, claims.py, settlements.py       put; claim and wait; ack, fail, extend, release and what else ends a delivery
dead_letters.py, lookups.py, control.py  failed items; counting, listing and finding; pausing, deleting, registering
call.py, encoding.py, replies.py         packing calls, writing arguments, reading replies
scripts.py, lua/                         the Lua files, their includes, and how the server gets them
"""

from django_srq.operations.call import BATCH, Call, Command, Keys, cut
from django_srq.operations.claims import GIVE_BACK, UNREAD, claim, ring, take_token, wait
from django_srq.operations.control import cancel, drop, forget_slots, pause, purge, purge_results, register, resume
from django_srq.operations.dead_letters import (
    count_dead,
    count_retrying,
    dead_groups,
    purge_dead,
    purge_retrying,
    requeue,
    requeue_dead,
    retry_groups,
    run_now,
    run_retrying,
)
from django_srq.operations.encoding import kept, milliseconds
from django_srq.operations.lookups import counts, find, finished, info, list_items, results, show, uids, wrong_groups
from django_srq.operations.puts import Put, encode_headers, put
from django_srq.operations.replies import (
    STATES,
    ClaimReply,
    Counts,
    CrashReply,
    DeliveryRef,
    ErrorGroup,
    FinishedPage,
    ItemPage,
    ItemView,
    PutReply,
    StoredItem,
    TaskView,
)
from django_srq.operations.scripts import BUCKETS, HOURS, LAYOUT, MINUTES, MOST_BYTES, Script, key_types
from django_srq.operations.settlements import (
    FAILED,
    FAILED_ALIKE,
    Failed,
    ack,
    crashed,
    ended,
    extend,
    fail,
    fail_many,
    recover,
    release,
    withdraw,
)

__all__ = [
    "BATCH",
    "BUCKETS",
    "FAILED",
    "FAILED_ALIKE",
    "GIVE_BACK",
    "HOURS",
    "LAYOUT",
    "MINUTES",
    "MOST_BYTES",
    "STATES",
    "UNREAD",
    "Call",
    "ClaimReply",
    "Command",
    "Counts",
    "CrashReply",
    "DeliveryRef",
    "ErrorGroup",
    "Failed",
    "FinishedPage",
    "ItemPage",
    "ItemView",
    "Keys",
    "Put",
    "PutReply",
    "Script",
    "StoredItem",
    "TaskView",
    "ack",
    "cancel",
    "claim",
    "count_dead",
    "count_retrying",
    "counts",
    "crashed",
    "cut",
    "dead_groups",
    "drop",
    "encode_headers",
    "ended",
    "extend",
    "fail",
    "fail_many",
    "find",
    "finished",
    "forget_slots",
    "info",
    "kept",
    "key_types",
    "list_items",
    "milliseconds",
    "pause",
    "purge",
    "purge_dead",
    "purge_results",
    "purge_retrying",
    "put",
    "recover",
    "register",
    "release",
    "requeue",
    "requeue_dead",
    "results",
    "resume",
    "retry_groups",
    "ring",
    "run_now",
    "run_retrying",
    "show",
    "take_token",
    "uids",
    "wait",
    "withdraw",
    "wrong_groups",
]
