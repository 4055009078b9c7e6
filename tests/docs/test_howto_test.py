"""The jobs for CI on the page about tests: the schemas of GitHub and GitLab, and the commands of the jobs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import ROOT, blocks

JOBS = {
    "# .github/workflows/test.yml": "vendor.github-workflows",
    "# .gitlab-ci.yml": "vendor.gitlab-ci",
}


def validated(folder: Path, schema: str, text: str) -> subprocess.CompletedProcess[str]:
    file = folder / "job.yml"
    file.write_text(text, "utf-8")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("title", JOBS)
def test_the_jobs_for_ci(title: str, tmp_path: Path) -> None:
    """Each is valid, installs the requirements, and runs the tests with the server that the settings take."""
    page = list(blocks(ROOT / "docs" / "howto" / "test.md"))
    (text,) = (block.text for block in page if block.text.startswith(f"{title}\n"))
    done = validated(tmp_path, JOBS[title], text)
    assert done.returncode == 0, done.stdout
    job = yaml.safe_load(text)
    job = job["jobs"]["test"] if "jobs" in job else job["test"]
    commands = job.get("script") or [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["pip install -r requirements.txt", "python manage.py test"]
    ((name, url),) = (job.get("env") or job["variables"]).items()
    settings = [block.text for block in page if block.text.startswith("# mysite/settings.py")]
    assert f'os.environ.get("{name}"' in settings[-1]
    assert url.startswith("valkey://")


def test_a_wrong_job_is_refused(tmp_path: Path) -> None:
    for schema in JOBS.values():
        assert validated(tmp_path, schema, "jobs: {test: {steps: 5}}\ntest: {script: {}}\n").returncode
