"""Django's tests of task backends by their names: those that have to pass, and those that cannot apply and why.

A test that is in no list, or that Django no longer has, fails the run: then somebody has to look at it.
"""

from __future__ import annotations

from typing import NamedTuple

# Since Django 6.1.
SINCE_6_1 = frozenset(
    {
        "TaskTestCase.test_pickle_task",
        "TaskTestCase.test_pickle_task_result",
        "TaskTestCase.test_run_after_in_decorator",
        "TaskTestCase.test_unpickle_arbitrary_string",
        "TaskTestCase.test_unpickle_non_task_object",
    }
)


def _named(case: str, words: str) -> frozenset[str]:
    return frozenset(f"{case}.test_{word}" for word in words.split())


TASKS = _named(
    "TaskTestCase",
    """
    aenqueue_with_invalid_argument call_async_task call_async_task_sync call_task call_task_async chained_using
    enqueue_task enqueue_task_async enqueue_with_invalid_argument get_backend get_incorrect_result
    get_incorrect_result_async get_missing_result get_result get_result_async invalid_function invalid_priority
    module_path naive_datetime name no_backends pickle_task pickle_task_result refresh_result run_after_in_decorator
    takes_context_without_taking_context task_decorator task_error_invalid_exception task_error_unknown_module
    unknown_queue_name unpickle_arbitrary_string unpickle_non_task_object using_correct_backend
    using_creates_new_instance using_missing_backend using_priority using_queue_name using_run_after
    using_unknown_backend
    """,
)
DUMMY = _named(
    "DummyBackendTestCase",
    """
    check clear enqueue_logs enqueue_task enqueue_task_async errors get_missing_result get_result get_result_async
    refresh_result refresh_result_async takes_context using_correct_backend validate_disallowed_async_task
    validate_on_aenqueue validate_on_enqueue
    """,
) | _named("DummyBackendTransactionTestCase", "doesnt_wait_until_transaction_commit_by_default")
IMMEDIATE = _named(
    "ImmediateBackendTestCase",
    """
    cannot_get_result cannot_pass_run_after cannot_refresh_result catches_exception complex_exception
    complex_return_value context enqueue_logs enqueue_task enqueue_task_async failed_logs result result_async
    successful_task_no_none_in_logs takes_context throws_keyboard_interrupt using_correct_backend validate_on_aenqueue
    validate_on_enqueue
    """,
) | _named("ImmediateBackendTransactionTestCase", "doesnt_wait_until_transaction_commit_by_default")


class Suite(NamedTuple):
    """Modules of Django's tests, which run with other backends in the places of Django's."""

    name: str
    modules: tuple[str, ...]
    backends: dict[str, str]  # a backend of Django -> what is written instead of its quoted path
    tests: frozenset[str]
    cannot: dict[str, str]  # a test that cannot apply -> the reason; it has to fail


_DUMMY, _IMMEDIATE = "django.tasks.backends.dummy.DummyBackend", "django.tasks.backends.immediate.ImmediateBackend"
_OURS = "tests.tasks.django_suite.backends"
_IDENTITY = "asserts that the backend is an instance of Django's {}"
_MEMORY = "changes the result in DummyBackend's list; our results are in the server, and nobody else changes them"

SUITES = (
    Suite(
        "SRQBackend: tasks wait in the queue",
        ("test_tasks", "test_dummy_backend"),
        {
            _DUMMY: f'"{_OURS}.Queueing", "OPTIONS": {{"ON_COMMIT": False}}',
            _IMMEDIATE: '"django_srq.tasks.ImmediateBackend"',
        },
        TASKS | DUMMY,
        {
            "TaskTestCase.test_using_correct_backend": _IDENTITY.format("DummyBackend"),
            "TaskTestCase.test_get_backend": _IDENTITY.format("DummyBackend"),
            "DummyBackendTestCase.test_using_correct_backend": _IDENTITY.format("DummyBackend"),
            "DummyBackendTestCase.test_refresh_result": _MEMORY,
            "DummyBackendTestCase.test_refresh_result_async": _MEMORY,
        },
    ),
    Suite(
        "SRQBackend: a consumer runs each task",
        ("test_immediate_backend",),
        {_IMMEDIATE: f'"{_OURS}.Running", "OPTIONS": {{"ON_COMMIT": False, "MAX_DELIVERIES": 1}}'},
        IMMEDIATE,
        {
            "ImmediateBackendTestCase.test_using_correct_backend": _IDENTITY.format("ImmediateBackend"),
            "ImmediateBackendTestCase.test_cannot_pass_run_after": "asserts that run_after is refused; here it works",
            "ImmediateBackendTestCase.test_cannot_get_result": "asserts that results cannot be read; here they can",
            "ImmediateBackendTestCase.test_cannot_refresh_result": "asserts that results cannot be read; here they can",
        },
    ),
    Suite(
        "ImmediateBackend",
        ("test_immediate_backend",),
        {_IMMEDIATE: '"django_srq.tasks.ImmediateBackend"'},
        IMMEDIATE,
        {},
    ),
    Suite(
        "DummyBackend",
        ("test_tasks", "test_dummy_backend"),
        {_DUMMY: '"django_srq.tasks.DummyBackend"', _IMMEDIATE: '"django_srq.tasks.ImmediateBackend"'},
        TASKS | DUMMY,
        {},
    ),
)
# Modules and classes of Django's tests that say nothing of a backend of ours.
NOT_OURS = {"test_custom_backend": "tests the base class of all backends by backends of its own"}
