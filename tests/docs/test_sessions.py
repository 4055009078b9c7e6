"""The runner of the pages: what it says about a command that a page does not fit."""

from __future__ import annotations

import os
import re

import pytest

from tests.docs import sessions
from tests.docs.sessions import Terminal


@pytest.fixture
def terminal(tmp_path):
    terminal = Terminal(tmp_path, "echo begun; read line; echo $line; read line", dict(os.environ))
    yield terminal
    terminal.close()


@pytest.mark.parametrize("wait", [Terminal.wait, lambda terminal: terminal.expect("never")], ids=["end", "output"])
def test_a_wait_in_vain_shows_the_output_of_then(terminal, monkeypatch, wait):
    terminal.expect("begun\n")
    terminal.type("further\n")
    terminal.expect("further\nfurther\n")  # the terminal repeats what is typed
    monkeypatch.setattr(sessions, "PATIENT", 0)
    with pytest.raises(AssertionError, match=re.escape(f"$ {terminal.command}")) as caught:
        wait(terminal)
    assert "begun\nfurther\nfurther\n" in str(caught.value)
