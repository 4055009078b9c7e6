"""Runs Django's tests of task backends with ours, and compares what passed with the lists.

Each module of Django's tests is loaded once for each suite, with the paths of our backends instead of Django's.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tarfile
import types
import unittest
import warnings
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path

import django
from django.conf import settings
from django.test.runner import DiscoverRunner

from tests.support.servers import Server
from tests.tasks.django_suite.lists import NOT_OURS, SINCE_6_1, SUITES, Suite

PACKAGE = "tasks"  # of Django's tests


def main() -> int:
    # A job in the background has SIGINT ignored; then a KeyboardInterrupt cannot come from a signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path.insert(0, str(_tests_of_django(Path(sys.prefix) / "django-tests")))
    warnings.simplefilter("ignore", RuntimeWarning)  # some of the asynchronous tests call what blocks
    server = Server("--loglevel", "warning")
    try:
        _configure(server.url)
        problems = list(_unknown_modules())
        for suite in SUITES:
            passed, failed, texts = _run(suite)
            problems += judge(suite, passed, failed, texts)
            print(f"{suite.name}: {len(passed)} passed, {len(failed)} did not")
            for name in sorted(failed & suite.cannot.keys()):
                print(f"    cannot apply: {name}: {suite.cannot[name]}")
    finally:
        server.close()
    print("\n".join(problems) or f"Django {django.__version__}: all as expected")
    return bool(problems)


def judge(suite: Suite, passed: set[str], failed: set[str], texts: dict[str, str]) -> Iterator[str]:
    """What is not as the lists say."""
    there = suite.tests if django.VERSION >= (6, 1) else suite.tests - SINCE_6_1
    for name in sorted(there - passed - failed):
        yield f"{suite.name}: {name} is missing"
    for name in sorted((passed | failed) - there):
        yield f"{suite.name}: {name} is in no list"
    for name in sorted(passed & suite.cannot.keys()):
        yield f"{suite.name}: {name} passed; it is listed as one that cannot ({suite.cannot[name]})"
    for name in sorted(failed - suite.cannot.keys()):
        yield f"{suite.name}: {name} failed\n{texts.get(name, '')}"


def _tests_of_django(folder: Path) -> Path:
    """The folder of Django's tests, as its source distribution has it; downloaded once for each environment."""
    tests = folder / f"django-{django.__version__}" / "tests"
    if not (tests / PACKAGE).is_dir():
        wanted = f"Django=={django.__version__}"
        options = ["--no-binary", "Django", "--no-deps", "--no-build-isolation", "--dest", str(folder)]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *options, wanted], check=True)
        path = folder / f"django-{django.__version__}.tar.gz"
        with tarfile.open(path) as archive:
            some = [member for member in archive if f"/tests/{PACKAGE}/" in member.name]
            archive.extractall(folder, some, filter="data")
        path.unlink()
    return tests


def _configure(url: str) -> None:
    settings.configure(
        SECRET_KEY="tests",
        USE_TZ=True,
        INSTALLED_APPS=["django_srq", PACKAGE],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        # In force when Django's test modules are imported: it says of which class their tasks are.
        TASKS={"default": {"BACKEND": "django_srq.tasks.SRQBackend", "QUEUES": []}},
        SRQ_DEFAULTS={"URL": url},
        # A backend whose QUEUES is empty has all of these. "unknown_queue" is that of tests in which another backend,
        # which does not have it, takes the place of the first.
        SRQ_QUEUES={"default": {}, "queue_1": {}, "queue-2": {}, "unknown_queue": {}},
        LOGGING={"version": 1, "loggers": {"django_srq": {"handlers": [], "propagate": False, "level": 100}}},
    )
    django.setup()


def _modules() -> list[str]:
    folder = import_module(PACKAGE).__path__[0]
    return sorted(path.stem for path in Path(folder).glob("test_*.py"))


def _unknown_modules() -> Iterator[str]:
    known = {*NOT_OURS, *(module for suite in SUITES for module in suite.modules)}
    yield from (f"Django's module {name} is in no list" for name in _modules() if name not in known)
    yield from (f"Django's module {name} is missing" for name in sorted(known - {*_modules()}))


def _run(suite: Suite) -> tuple[set[str], set[str], dict[str, str]]:
    """The names of the tests that passed and that failed, and the texts of the failures."""
    tests = unittest.TestSuite(
        unittest.defaultTestLoader.loadTestsFromModule(_loaded(module, suite)) for module in suite.modules
    )
    names = {test.id(): f"{type(test).__name__}.{test.id().rpartition('.')[2]}" for test in _each(tests)}
    runner = DiscoverRunner(verbosity=0, interactive=False)
    runner.setup_test_environment()
    databases = runner.setup_databases()
    result = unittest.TestResult()
    try:
        tests.run(result)
    finally:
        runner.teardown_databases(databases)
        runner.teardown_test_environment()
    texts: dict[str, str] = {}
    for test, text in [*result.errors, *result.failures]:
        test = getattr(test, "test_case", test)  # of a subTest
        texts[names.get(test.id(), test.id())] = text
    if result.skipped:
        raise RuntimeError(f"tests were skipped: {result.skipped}")
    return {*names.values()} - texts.keys(), {*texts}, texts


def _loaded(name: str, suite: Suite) -> types.ModuleType:
    """A module of Django's tests, in which the paths of backends are those of the suite's."""
    spec = PathFinder.find_spec(f"{PACKAGE}.{name}", import_module(PACKAGE).__path__)
    assert spec is not None
    assert spec.origin is not None
    code = original = Path(spec.origin).read_text("utf-8")
    for theirs, ours in suite.backends.items():
        code = code.replace(f'"{theirs}"', ours)
    if code == original:
        raise RuntimeError(f"{spec.origin} names none of {', '.join(suite.backends)}")
    module = types.ModuleType(f"{PACKAGE}.{name}")
    module.__file__, module.__package__ = spec.origin, PACKAGE
    sys.modules[module.__name__] = module
    exec(compile(code, spec.origin, "exec"), vars(module))
    return module


def _each(tests: Iterable[unittest.TestCase | unittest.TestSuite]) -> Iterator[unittest.TestCase]:
    for test in tests:
        if isinstance(test, unittest.TestSuite):
            yield from _each(test)
        else:
            yield test


if __name__ == "__main__":
    sys.exit(main())
