"""``python srq_scripts.py N``: a loop that claims N items and acks each when it is handled; it awaits no replies.

No worker can be faster, because this one does nothing else: nobody renews its leases or notices its death, it writes no
log and checks no database connections.
"""

import sys

import srq_app

from django_srq import operations
from django_srq.transport.slots import Slot, slots


def work(ahead):
    queue, slot = srq_app.queues["bench"], Slot(b"c1")
    stream = queue.link.stream()
    while True:
        slot.seq += 1
        claim = queue.claim("c1", lease=3600, n=ahead)
        for found in queue.link.call(claim, queue=queue.alias, slot=slot).found:
            srq_app.handle(queue.serializer.loads(found.payload))
            stream.send(operations.ack(queue.keys, [found.ref]), queue=queue.alias)
        for sent in stream.collect():
            slots.give_back(sent.slot)


if __name__ == "__main__":
    work(int(sys.argv[1]))
