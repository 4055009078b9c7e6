"""``python -m benchmarks.deaths``: what happens to items when consumers die, with real processes.

Measures times to redelivery, counts lost and repeated items under random kills, and shows whether leases are kept.

Exit code 1 when a promise is broken.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import django
from django.conf import settings

from django_srq import SafeRedisQueue
from django_srq.queue.item import Item
from django_srq.queue.serializers import BY_NAME
from tests.support.project import kill_session
from tests.support.servers import Server

ROOT = Path(__file__).resolve().parent.parent
DEATHS = ("SIGKILL", "SIGSEGV", "SIGABRT", "exit", "time limit", "host")
LEASE = 5.0  # seconds; for the measures of leases, and of the death of a whole consumer
DEADLINE = 120.0  # seconds, for each wait
MOST = 1.0  # seconds, at most, from the death of a child to the next delivery


# -- handlers, run by srq_consume


def say(*words: object) -> None:
    # A single write, so that lines of several processes stay whole.
    with Path(os.environ["SRQ_BENCH_LOG"]).open("a") as log:
        log.write(" ".join(map(str, (time.monotonic(), *words))) + "\n")


def dying(payload: dict[str, str], item: Item) -> None:
    say("began", item.uid)
    if item.deliveries > 1:
        return
    how = payload["how"]
    if how.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, how))
    elif how == "exit":
        os._exit(3)
    time.sleep(DEADLINE)


def working(payload: float, item: Item) -> None:
    say("began", item.uid)
    time.sleep(payload)
    say("ended", item.uid)


def sleeping(payload: float, item: Item) -> None:
    time.sleep(payload)
    say("ended", item.uid, f"lost={item.lease_lost}")


def spinning(payload: float, item: Item) -> None:
    # PyDLL keeps the interpreter's lock during the call, as a long computation in C does.
    ctypes.PyDLL(None).usleep(ctypes.c_uint(int(payload * 1e6)))
    say("ended", item.uid, f"lost={item.lease_lost}")


def nothing(payload: object) -> None:
    pass


# -- the project around them


class Project:
    """A queue with a handler, and consumers as real processes; without a handler, it is a queue of Django's tasks."""

    def __init__(self, folder: Path, url: str, handler: str = "", **options: object) -> None:
        self.folder, self.log, self.url = folder, folder / "log", url
        self.log.write_text("")
        self.settings: dict[str, object] = {"USE_TZ": True, "INSTALLED_APPS": ["django_srq"], "DATABASES": {}}
        if handler:
            queue = {"URL": url, "HANDLER": f"benchmarks.deaths.{handler}", "PREFIX": handler, **options}
            self.settings["SRQ_QUEUES"] = {"q": queue}
        else:
            backend = "django_srq.tasks.SRQBackend"
            self.settings["TASKS"] = {"default": {"BACKEND": backend, "OPTIONS": {"URL": url, **options}}}
        lines = [f"{name} = {value!r}\n" for name, value in {"SECRET_KEY": "benchmarks", **self.settings}.items()]
        (folder / "srq_bench_settings.py").write_text("".join(lines))
        self.queue = SafeRedisQueue(name=handler or "default", url=url, serializer=BY_NAME["json"]())

    @contextmanager
    def consumer(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{self.folder}",
            "DJANGO_SETTINGS_MODULE": "srq_bench_settings",
            "SRQ_BENCH_LOG": str(self.log),
        }
        with (self.folder / "err").open("ab") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "django", "srq_consume", *arguments],
                env=environment,
                stderr=err,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(DEADLINE)

    def lines(self) -> list[tuple[float, list[str]]]:
        split = [line.split() for line in self.log.read_text().splitlines()]
        return [(float(moment), words) for moment, *words in split]

    def moments(self, *words: str) -> list[float]:
        return [moment for moment, said in self.lines() if said[: len(words)] == list(words)]


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.002)


def children(process: subprocess.Popen[bytes]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


# -- the measures; each returns whether the promise was kept


def redelivery(server: Server, folder: Path, kills: int) -> bool:
    """The time from the death of a process in mid-item to the next delivery of the item."""
    kept = True
    print("time to redelivery (s)          kills  median     max  bound")
    for how in DEATHS[:-1]:
        project = Project(folder, server.url, "dying", MAX_CRASHES=None, LEASE=60)
        limit = ["--time-limit", "1"] if how == "time limit" else []
        with project.consumer(*limit) as process:
            wait_for(lambda: children(process), "a child")
            times = [_one_death(project, how) for _ in range(kills)]
        if how == "time limit":
            times = [seconds - 1 for seconds in times]
        kept &= _print_times(how, times, MOST)
    return kept & _loss_of_host(server, folder, min(kills, 10))


def _one_death(project: Project, how: str) -> float:
    uid = project.queue.put({"how": how})
    wait_for(lambda: len(project.moments("began", uid)) == 2, f"redelivery after {how}")
    wait_for(lambda: sum(project.queue.counts().values()) == 0, "the ack")
    died, again = project.moments("began", uid)
    return again - died


def _loss_of_host(server: Server, folder: Path, kills: int) -> bool:
    """All processes of a consumer die at once: another consumer gets the item when the lease ends."""
    times = []
    for _ in range(kills):
        project = Project(folder, server.url, "dying", MAX_CRASHES=None, LEASE=LEASE)
        uid = project.queue.put({"how": "host"})
        with project.consumer() as first:
            wait_for(lambda uid=uid, project=project: project.moments("began", uid), "the first delivery")
            kill_session(first)
        killed = time.monotonic()
        with project.consumer():
            wait_for(lambda uid=uid, project=project: len(project.moments("began", uid)) == 2, "redelivery")
            times.append(project.moments("began", uid)[1] - killed)
            wait_for(lambda project=project: sum(project.queue.counts().values()) == 0, "the ack")
    return _print_times(f"all at once, LEASE {LEASE:g} s", times, LEASE + MOST)


def _print_times(what: str, times: list[float], most: float) -> bool:
    kept = max(times) <= most
    median, longest = statistics.median(times), max(times)
    print(f"{what:30} {len(times):6} {median:7.3f} {longest:7.3f}  ≤ {most:g}  {'' if kept else 'MISSED'}", flush=True)
    return kept


def random_kills(server: Server, folder: Path, kills: int) -> bool:
    """Kills four children at random moments under load: no item is lost, and only interrupted items are repeated."""
    project = Project(folder, server.url, "working", MAX_CRASHES=None, MAX_DELIVERIES=None, LEASE=60)
    chance, uids, killed = random.Random(1), [], 0
    with project.consumer("--processes", "4") as process:
        while killed < kills:
            uids += project.queue.put_many([chance.uniform(0, 0.02) for _ in range(20)])
            wait_for(lambda: children(process), "children")
            os.kill(chance.choice(children(process)), signal.SIGKILL)
            killed += 1
            time.sleep(chance.uniform(0, 0.1))
        wait_for(lambda: sum(project.queue.counts().values()) == 0, "an empty queue")
    began = Counter(words[1] for _, words in project.lines() if words[0] == "began")
    ended = Counter(words[1] for _, words in project.lines() if words[0] == "ended")
    lost = [uid for uid in uids if not ended[uid]]
    doubled = [uid for uid in uids if ended[uid] > 1]
    cut = sum(began.values()) - sum(ended.values())
    findings = project.queue.audit()
    print(
        f"{killed} random SIGKILLs, 4 children: {len(uids)} items, {len(lost)} lost, {len(doubled)} handled twice to "
        f"the end, {cut} cut and delivered again, audit: {findings or 'clean'}",
        flush=True,
    )
    # A child may die after it logged the end of an item and before the ledger says so; only such an item is handled
    # again.
    return not lost and not findings and len(doubled) <= kills // 20 and cut <= kills


def kills_of_tasks(server: Server, folder: Path, kills: int) -> bool:
    """Kills children and supervisors of tasks that return values: every task ends with its value.

    A task whose whole consumer was killed waits for the end of its lease.
    """
    project = Project(folder, server.url, LEASE=2, MAX_CRASHES=None, MAX_DELIVERIES=None, RESULT_TTL=3600)
    settings.configure(**project.settings)
    django.setup()
    from django.tasks.exceptions import TaskResultDoesNotExist

    from benchmarks.valued import square

    chance, numbers, killed, waiting = random.Random(2), itertools.count(), Counter[str](), {}
    with ExitStack() as stack:
        consumers = [stack.enter_context(project.consumer("--processes", "2")) for _ in range(2)]
        while killed.total() < kills:
            for number in itertools.islice(numbers, 10):
                waiting[square.enqueue(number, chance.uniform(0, 0.02)).id] = number
            process = chance.choice(consumers)
            wait_for(lambda process=process: children(process), "children")
            whom = chance.choices(("child", "supervisor", "consumer"), (8, 1, 1))[0]
            if whom == "child":
                os.kill(chance.choice(children(process)), signal.SIGKILL)
            else:
                if whom == "supervisor":
                    process.kill()
                else:
                    kill_session(process)
                consumers.remove(process)
                consumers.append(stack.enter_context(project.consumer("--processes", "2")))
            killed[whom] += 1
            time.sleep(chance.uniform(0, 0.1))
        wait_for(lambda: sum(project.queue.counts().values()) == 0, "an empty queue")
    ended, wrong = Counter[str](), 0
    for uid, number in waiting.items():
        try:
            result = square.get_result(uid)
        except TaskResultDoesNotExist:
            ended["missing"] += 1
            continue
        ended[result.status.name] += 1
        wrong += result.is_finished and result.return_value != {"number": number, "square": number * number}
    findings = project.queue.audit()
    print(
        f"{killed.total()} random SIGKILLs of {dict(killed)}: {len(waiting)} tasks, {dict(ended)}, "
        f"{wrong} wrong values, audit: {findings or 'clean'}",
        flush=True,
    )
    return ended["SUCCESSFUL"] == len(waiting) and not wrong and not findings


def leases(server: Server, folder: Path, seconds: float) -> bool:
    """Handlers keep their leases: one sleeps, another holds the interpreter's lock, for much longer than LEASE."""
    kept = True
    for handler in ("sleeping", "spinning"):
        project = Project(folder, server.url, handler, LEASE=LEASE)
        uid = project.queue.put(seconds)
        with project.consumer(), project.consumer():
            wait_for(lambda uid=uid, project=project: project.moments("ended", uid), "its end")
            wait_for(lambda project=project: sum(project.queue.counts().values()) == 0, "the ack")
        delivered = project.queue.snapshot().stats["delivered"]
        (words,) = [words for _, words in project.lines() if words[:2] == ["ended", uid]]
        print(f"{handler} for {seconds:g} s with a lease of {LEASE:g} s: {delivered} delivery, {words[2]}", flush=True)
        kept &= delivered == 1 and words[2] == "lost=False"
    return kept


def idle(server: Server, folder: Path, seconds: float) -> bool:
    """The commands of an idle consumer of one queue, counted by the server: the number of threads does not matter."""
    kept = True
    for threads in ("1", "8"):
        project = Project(folder, server.url, "nothing")
        with project.consumer("--threads", threads), server.client() as client:
            wait_for(lambda client=client: client.info("clients")["blocked_clients"], "an idle consumer")
            before = _calls(client)
            time.sleep(seconds)
            rate = (_calls(client) - before) / seconds
        print(f"idle, {threads} threads: {rate:.2f} commands/s", flush=True)
        kept &= rate <= 0.5 + 2 / seconds
    return kept


def _calls(client: object) -> int:
    """The number of commands from clients; those of scripts and the INFO of this function do not count."""
    stats = client.info("commandstats")  # type: ignore[attr-defined]
    names = ("evalsha", "eval", "blpop", "rpush", "ping", "client|setinfo", "hello")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in names)


def drain(server: Server, folder: Path, items: int) -> bool:
    """Items per second through the real command, with handlers that do nothing; the consumer's start is not counted."""
    print("drain (items/s)    1 thread  4 threads")
    for processes in (1, 2, 4):
        rates = []
        for threads in (1, 4):
            project = Project(folder, server.url, "nothing")
            with project.consumer("--processes", str(processes), "--threads", str(threads), "--verbosity", "0"):
                wait_for(lambda project=project: project.queue.snapshot().consumers, "the consumer")
                project.queue.pause()
                project.queue.put_many([None] * items)
                acked = project.queue.snapshot().stats.get("acked", 0)
                began = time.monotonic()
                project.queue.resume()
                wait_for(
                    lambda project=project, acked=acked: (
                        project.queue.snapshot().stats.get("acked", 0) - acked >= items
                    ),
                    "the last ack",
                )
                rates.append(items / (time.monotonic() - began))
        print(
            f"{processes} process{'es' if processes > 1 else '  '}       {rates[0]:10,.0f} {rates[1]:10,.0f}",
            flush=True,
        )
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deaths", description=__doc__.splitlines()[2])
    parser.add_argument("--quick", action="store_true", help="few kills and short waits")
    quick = parser.parse_args().quick
    server = Server()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            kept = [
                redelivery(server, folder, 3 if quick else 50),
                random_kills(server, folder, 10 if quick else 200),
                kills_of_tasks(server, folder, 20 if quick else 300),
                leases(server, folder, 7 if quick else 60),
                idle(server, folder, 5 if quick else 30),
                drain(server, folder, 500 if quick else 20_000),
            ]
        finally:
            server.close()
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
