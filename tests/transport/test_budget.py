"""How long and how often a call is tried."""

from __future__ import annotations

import pytest

from django_srq.transport import budget
from django_srq.transport.budget import LONGEST_PAUSE, SHORTEST_ATTEMPT, Budget
from tests.support.waiting import PATIENT


@pytest.fixture
def whole_pauses(monkeypatch):
    monkeypatch.setattr(budget, "jitter", lambda seconds: seconds)


@pytest.mark.usefixtures("whole_pauses")
def test_pauses_are_doubled_up_to_a_limit():
    call = Budget(PATIENT)
    assert [call.pause() for _ in range(8)] == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, LONGEST_PAUSE, LONGEST_PAUSE]


@pytest.mark.usefixtures("whole_pauses")
def test_there_is_no_pause_after_which_an_attempt_would_have_no_time():
    assert Budget(SHORTEST_ATTEMPT + budget.FIRST_PAUSE).pause() is None


def test_a_pause_is_a_random_part():
    pauses = {Budget(PATIENT).pause() for _ in range(20)}
    assert len(pauses) > 1
    assert max(pauses) <= budget.FIRST_PAUSE
