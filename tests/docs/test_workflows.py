"""The workflows of GitHub: valid, safe, and in step with ``.ci/run``."""

from __future__ import annotations

import configparser
import re
import tomllib
from itertools import product
from typing import Any

import pytest
import yaml

from tests.docs.pages import ROOT
from tests.docs.test_deploy import run, tool

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
SCRIPT = (ROOT / ".ci" / "run").read_text("utf-8")
CI = (FOLDER / "ci.yml").read_text("utf-8")
# The runners have a browser.
PREINSTALLED = {"chromium"}


def jobs(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / name).read_text("utf-8"))["jobs"])


def called(text: str) -> set[str]:
    """The make targets that a text calls."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    code = "\n".join(line.partition("#")[0] for line in text.splitlines())
    return set(re.findall(r"\bmake ([a-z-]+)", code)) & targets


def test_each_workflow_has_the_form_of_github() -> None:
    assert len(WORKFLOWS) == 2
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    run(tool("check-jsonschema"), "--builtin-schema", "custom.github-workflows-require-timeout", FOLDER / "ci.yml")


def test_the_workflows_have_no_known_weakness() -> None:
    """Actions are pinned by hash, no job has more rights than it needs, no text of a pull request is run."""
    run(tool("zizmor"), "--offline", "--no-progress", "--quiet", "--min-severity=medium", *WORKFLOWS)


def test_the_workflow_calls_what_the_script_calls() -> None:
    assert called(SCRIPT) <= called(CI)
    assert "docs-tests" in called(CI)


def test_the_workflow_installs_what_the_script_installs() -> None:
    packages = {
        package for found in re.findall(r'missing="(?:\$missing )?([\w. -]+)"', SCRIPT) for package in found.split()
    }
    installed = {
        package
        for found in re.findall(r"apt-get install ([^\n]+)", CI)
        for package in found.split()
        if not package.startswith("-")
    }
    assert packages
    assert packages - PREINSTALLED <= installed


def test_the_matrix_has_all_supported_versions() -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    classifiers = parser["metadata"]["classifiers"]
    matrix = jobs("ci.yml")["versions"]["strategy"]["matrix"]
    assert matrix["python"] == re.findall(r"Python :: (3\.\d+)", classifiers)
    assert matrix["django"] == re.findall(r"Django :: (\d\.\d)", classifiers)
    assert matrix["server"] == ["valkey", "redis"]
    # The script names the Djangos of each Python.
    for python, djangos in re.findall(r"^\s+([\d. |]+)\) echo ([\d. ]+) ;;", SCRIPT, re.MULTILINE):
        for minor, django in product(python.split(" | "), djangos.split()):
            assert minor not in matrix["python"] or {"python": minor, "django": django} not in matrix["exclude"]
    oldest, newest = jobs("ci.yml")["surroundings"]["strategy"]["matrix"]["include"]
    for versions, place in ((oldest, 0), (newest, -1)):
        assert (versions["python"], versions["django"]) == (matrix["python"][place], matrix["django"][place])
    bounds = re.search(r"redis>=([\d.]+),(<\d+)", parser["options"]["install_requires"])
    assert bounds
    assert f"redis=={bounds[1]}.0" in CI
    assert f"redis{bounds[2]}" in CI


def test_the_groups_and_extras_exist() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        groups = tomllib.load(file)["dependency-groups"]
    assert set(re.findall(r"--group (\w+)", CI)) <= groups.keys()


def test_one_job_needs_all_others() -> None:
    everything = jobs("ci.yml")
    assert set(everything.pop("all")["needs"]) == everything.keys()


@pytest.mark.parametrize("job", ["build", "publish"])
def test_nothing_is_published_before_all_tests_have_passed(job: str) -> None:
    release = jobs("release.yml")
    assert release["ci"]["uses"] == "./.github/workflows/ci.yml"
    assert release["build"]["needs"] == "ci"
    assert release["publish"]["needs"] == "build"
    # Only the last job may ask PyPI for a token, and it runs no code of the repository.
    rights = release[job].get("permissions", {})
    assert ("id-token" in rights) == (job == "publish")
    assert not any("checkout" in step.get("uses", "") for step in release["publish"]["steps"])
