"""A demonstration: orders survive a consumer that is killed while it handles one. Exits with 0 if all were handled.

Its data are in a temporary folder; its embedded server ends with it.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
PRODUCTS = ["tea", "milk", "the slow order", "sugar", "biscuits"]
SLOW = PRODUCTS[2]
LEASE = 3  # seconds; 15 by default, less here to keep the demonstration short
DEADLINE = time.monotonic() + 50


def main() -> int:
    # Registered before the package's own hook, so it runs after that hook: the server ends before its data are deleted.
    folder = tempfile.TemporaryDirectory(prefix="srq-demo-")
    atexit.register(folder.cleanup)
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "testproject.settings",
        "SHOP_DATA": folder.name,
        "SHOP_LEASE": str(LEASE),
        "SHOP_SLOW_PRODUCT": SLOW,
    }
    os.environ.pop("REDIS_URL", None)
    sys.path.insert(0, str(HERE))
    with ExitStack() as cleanup:
        return demonstrate(cleanup)


def demonstrate(cleanup: ExitStack) -> int:
    import django

    django.setup()
    from django.core.management import call_command
    from django.test import Client

    from django_srq import queues
    from shop.models import Order

    call_command("migrate", verbosity=0)
    orders = queues["orders"]
    say(f"Putting {len(PRODUCTS)} orders through the shop's view, into an embedded Valkey server (no Redis needed).")
    for product in PRODUCTS:
        Client().post("/", {"product": product, "quantity": 1})
    print(f"  {len(orders)} ready. The third takes very long, and its consumer will be killed before it is done.")

    say("Starting a consumer: manage.py srq_consume orders")
    slow = Path(os.environ["SHOP_DATA"], "slow.pid")  # written by the handler of the slow order
    first = consumer(cleanup)
    wait_for(lambda: slow.exists() and bool(slow.read_text()), "the slow order in hand", first)
    print(f"  {Order.objects.exclude(handled_at=None).count()} orders handled, and the slow one is in hand.")

    say("Killing all processes of the consumer with SIGKILL, in the middle of the slow order: none can clean up.")
    kill(first, int(slow.read_text()))
    slow.unlink()
    killed = time.monotonic()
    print(f"  Left in the queue: {counted(orders.counts())}.")

    say("Starting another consumer. It takes the ready orders, and the slow one when the killed consumer's lease ends:")
    print(f"  LEASE is {LEASE} s here, to keep this short; the default is 15 s.")
    second = consumer(cleanup)
    wait_for(lambda: slow.exists() and bool(slow.read_text()), "the second delivery", second)
    redelivered = time.monotonic() - killed

    say("Killing only the process with the slow order, again in the middle: its supervisor gives it back at once.")
    os.kill(int(slow.read_text()), signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: Order.objects.filter(product=SLOW, deliveries=3).exists(), "the third delivery", second)
    given_back = time.monotonic() - killed
    wait_for(lambda: not Order.objects.filter(handled_at=None).exists(), "all orders handled", second)
    wait_for(lambda: sum(orders.counts().values()) == 0, "an empty queue", second)
    print("  All handled, in this order:")
    for order in Order.objects.order_by("handled_at"):
        again = f"  <- again {redelivered:.1f} s after the first kill, {given_back:.2f} s after the second"
        note = again if order.product == SLOW else ""
        print(f"     {order.product:16} deliveries: {order.deliveries}{note}")

    say("Output of manage.py srq_status (CONSUMERS counts the killed one too, until 15 s after its last sign of life):")
    call_command("srq_status", stdout=sys.stdout)
    second.terminate()
    return verdict(second.wait(left()), orders.audit())


def verdict(exit_code: int, findings: list[str]) -> int:
    from shop.models import Order

    expected = {product: 3 if product == SLOW else 1 for product in PRODUCTS}
    found = dict(Order.objects.exclude(handled_at=None).values_list("product", "deliveries"))
    if found != expected or exit_code != 0 or findings:
        say(f"NOT as promised: {found}, the consumer ended with {exit_code}, audit: {findings or 'clean'}.")
        return 1
    say(f"Nothing lost, nothing doubled: {len(found)} orders, each handled once; the queue's audit is clean.")
    say("Now look at the shop and its admin: make serve, then http://127.0.0.1:8000/admin/ (user and password: admin).")
    return 0


def consumer(cleanup: ExitStack) -> subprocess.Popen[bytes]:
    """A consumer in a process of its own, which does not outlive this process."""
    with Path(os.environ["SHOP_DATA"], "consumer.log").open("ab") as log:
        command = [sys.executable, str(HERE / "manage.py"), "srq_consume", "orders"]
        process = subprocess.Popen(command, stderr=log, process_group=0)
    cleanup.callback(kill, process)
    return process


def kill(process: subprocess.Popen[bytes], *children: int) -> None:
    """Kill a consumer and its child processes at once, as the loss of a host does."""
    for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that none notices another's death
        for pid in (process.pid, *children):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
    process.wait()


def wait_for(condition: Callable[[], bool], what: str, process: subprocess.Popen[bytes]) -> None:
    while not condition():
        if process.poll() is not None or left() < 0:
            log = Path(os.environ["SHOP_DATA"], "consumer.log").read_text()
            raise SystemExit(f"Waited in vain for {what}. Output of the consumers:\n{log}")
        time.sleep(0.02)


def left() -> float:
    return DEADLINE - time.monotonic()


def counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in counts.items() if count)


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
