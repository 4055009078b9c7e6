"""The script of the CI: which Pythons and Djangos it takes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "run"


FUNCTIONS = "\n".join(re.findall(r"^\w+\(\) \{.*?\}$", SCRIPT.read_text("utf-8"), re.MULTILINE | re.DOTALL))


def bash(code: str, path: str = "/usr/bin:/bin") -> list[str]:
    """Run code that may call the functions of the script; the lines that it prints."""
    done = subprocess.run(
        ["bash", "-euc", f"{FUNCTIONS}\n{code}"], env={"PATH": path}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("python", "djangos"),
    [("3.11", "5.2"), ("3.12", "6.0 6.1"), ("3.13", "5.2 6.0 6.1"), ("3.14", "5.2 6.0 6.1"), ("3.15", "6.1")],
)
def test_the_djangos_of_each_python(python, djangos):
    assert bash(f"djangos {python}") == [djangos]
    assert bash(f"newest_django {python}") == [djangos.split()[-1]]


@pytest.mark.parametrize("minor", ["3.11", "3.12", "3.13", "3.14"])
def test_a_python_of_the_machine_is_found(tmp_path, minor):
    """By its name on the path, and among those of pyenv."""
    python = tmp_path / f"python{minor}"
    python.touch(mode=0o755)
    assert str(python) in bash("pythons", path=f"{tmp_path}:/usr/bin:/bin")
    pyenv = tmp_path / "pyenv"
    pyenv.write_text(f"#!/bin/sh\ncase $1 in versions) echo {minor}.2;; root) echo /opt/pyenv;; esac\n")
    pyenv.chmod(0o755)
    assert f"/opt/pyenv/versions/{minor}.2/bin/python" in bash("pythons", path=f"{tmp_path}:/usr/bin:/bin")
