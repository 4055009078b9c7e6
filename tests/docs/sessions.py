"""A reader at work: executes the blocks of a page in a folder, in a terminal, as the page shows them."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from django_srq.transport import embedded
from tests.docs.pages import Block
from tests.support.project import kill_session
from tests.support.servers import Server
from tests.support.waiting import wait_for

PATIENT = 60.0  # seconds for a command to say what the page shows
REDIS = "redis://localhost:6379"
SITE = "127.0.0.1:8000"
PASSWORD = "stock-taking at 7"  # typed where a command asks for a password
# A process of its own with a terminal of its own, as a shell begins it.
TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp('bash', sys.argv[1:])"
# Executes the pieces of Python that arrive as lines of JSON, and answers with a line of JSON.
PYTHON = """
import contextlib, doctest, io, json, os, sys, traceback
sys.path.insert(0, os.getcwd())
if os.path.exists("manage.py"):
    exec(next(line.strip() for line in open("manage.py") if "setdefault" in line))
    import django
    django.setup()
names = {"__name__": "__main__"}
flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
for line in sys.stdin:
    kind, text = json.loads(line)
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            if kind == "pycon":
                test = doctest.DocTestParser().get_doctest(text.replace("…", "..."), names, "page", "page", 0)
                runner = doctest.DocTestRunner(optionflags=flags)
                failed = runner.run(test, clear_globs=False, out=out.write).failed
                names.update(test.globs)
            else:
                exec(compile(text, "page", "exec"), names)
                failed = 0
    except BaseException:
        failed = 1
        out.write(traceback.format_exc())
    print(json.dumps([failed, out.getvalue()]), flush=True)
"""


def pattern(shown: str) -> str:
    """The pattern of an output that a page shows."""
    lines = []
    for line in shown.splitlines():
        if line.strip() == "…":
            lines.append(r"(?:[^\n]*\n)*?")
        else:
            lines.append(re.escape(line.rstrip()).replace("…", r"[^\n]*?") + r"[ \t]*\n")
    return "".join(lines)


class Terminal:
    """A command that runs in a terminal of its own."""

    def __init__(self, folder: Path, command: str, environment: dict[str, str]) -> None:
        self.command = command
        self.terminal, other_end = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", TERMINAL, "bash", "-c", command],
            cwd=folder,
            env=environment,
            stdin=other_end,
            stdout=other_end,
            stderr=other_end,
            start_new_session=True,
        )
        os.close(other_end)
        self._received = b""
        self._compared = 0  # characters of the output

    @property
    def output(self) -> str:
        text = self._received.decode(errors="replace").replace("\r\n", "\n").replace("\N{NO-BREAK SPACE}", " ")
        return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text)

    def _receive(self) -> bool:
        """Read all there is, and say whether the command has ended."""
        ended = self.process.poll() is not None
        while select.select([self.terminal], [], [], 0)[0]:
            try:
                self._received += os.read(self.terminal, 65536)
            except OSError:  # all of a command that has ended was read
                break
        return ended

    def expect(self, pattern: str) -> None:
        """Wait until the output goes on with the pattern."""

        def found() -> re.Match[str] | bool:
            ended = self._receive()
            return re.compile(pattern).match(self.output, self._compared) or ended

        try:
            match = wait_for(found, "the output", seconds=PATIENT)
        except AssertionError:
            match = False
        assert isinstance(match, re.Match), self._difference(pattern)
        self._compared = match.end()

    def _difference(self, pattern: str) -> str:
        return f"$ {self.command}\n--- the page, as a pattern:\n{pattern}\n--- the output:\n{self.output}"

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C. The output from here on counts."""
        self._receive()
        self._compared = len(self.output)
        self.type("\x03")

    def wait(self) -> int:
        """Wait for its end; the status is that of the command."""
        try:
            wait_for(self._receive, "the end", seconds=PATIENT)
        except AssertionError:
            raise AssertionError(f"$ {self.command} did not end within {PATIENT:g} s:\n{self.output}") from None
        return self.process.wait()

    def close(self) -> None:
        kill_session(self.process)
        os.close(self.terminal)


@dataclass
class Session:
    """The folder of a page, and what runs in it."""

    folder: Path
    environment: dict[str, str]
    site: str  # host and port of the site that runserver and gunicorn serve
    running: list[Terminal] = field(default_factory=list)
    _python: subprocess.Popen[str] | None = None
    _server: Server | None = None

    def execute(self, blocks: Iterable[Block]) -> None:
        for block in blocks:
            if block.runs:
                try:
                    self._step(block)
                except AssertionError as error:
                    raise AssertionError(f"line {block.line}: {error}") from None

    def _step(self, block: Block) -> None:
        if block.file:
            self.write(*block.file, block.text)
        elif block.language == "console":
            self.console(block)
        else:
            self.python(block)

    def real(self, text: str) -> str:
        """The text with the addresses of this session."""
        if REDIS in text:
            self._server = self._server or Server()
            text = text.replace(REDIS, f"redis://127.0.0.1:{self._server.port}")
        return text.replace(SITE, self.site).replace("localhost:8000", self.site)

    def write(self, path: str, append: bool, text: str) -> None:
        target = self.folder / path
        assert self.folder in target.resolve().parents, path
        assert not append or target.exists(), f"{path} does not exist"
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("a" if append else "w", encoding="utf-8") as file:
            file.write(("\n" if append else "") + self.real(text))
        self._end_python()

    # Python

    def python(self, block: Block) -> None:
        if block.note == "alone" or self._python is None:
            self._end_python()
            self._python = subprocess.Popen(
                ["python", "-c", PYTHON],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        assert self._python.stdin
        assert self._python.stdout
        print(json.dumps([block.language, self.real(block.text)]), file=self._python.stdin, flush=True)
        answer = self._python.stdout.readline()
        assert answer, "Python ended"
        failed, output = json.loads(answer)
        assert not failed, output
        if block.note == "alone":
            self._end_python()

    def _end_python(self) -> None:
        """The next piece of Python begins in a new process, with the files of then."""
        if self._python:
            kill_session(self._python)
            self._python.communicate()  # closes its pipes
            self._python = None

    # Commands

    def console(self, block: Block) -> None:
        """Each command with the output that follows it."""
        before, *commands = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
        if before:
            assert before.startswith("^C\n"), "a block begins with a command, or with ^C for the last one that goes on"
            self.running[-1].interrupt()
            self._end(self.running.pop(), before.partition("\n")[2], 0)
        for number, text in enumerate(commands, 1):
            line, _, output = re.sub(r"\\\n\s*", "", text).partition("\n")
            last = number == len(commands)
            status = int(block.reason) if block.note == "exit" and last else 0
            self._command(self.real(line), self.real(output), status, block.note == "goes on" and last)

    def _command(self, command: str, output: str, status: int, goes_on: bool) -> None:
        words = shlex.split(command, comments=True)
        if words[:2] == ["pip", "install"]:
            return  # all packages are installed; test_pages looks whether the extras exist
        if "runserver" in words and self.site not in words:
            command += f" {self.site}"
        terminal = Terminal(self.folder, command, self.environment)
        self.running.append(terminal)
        if "createsuperuser" in words:
            output = self._answer(terminal, output)
        shown, interrupt, rest = output.partition("^C\n")
        if goes_on or interrupt:
            terminal.expect(pattern(shown))
        if interrupt:
            terminal.interrupt()
        if not goes_on:
            self._end(self.running.pop(), rest if interrupt else shown, status)

    def _answer(self, terminal: Terminal, output: str) -> str:
        """Type the answers that the page shows after each question; return the rest of the output."""
        while question := re.match(r"(.*?: ?)(.*)\n", output):
            terminal.expect(re.escape(question[1].rstrip()).replace("…", ".*?") + " ")
            answer = question[2] or (PASSWORD if "Password" in question[1] else "")
            terminal.type(answer + "\n")
            terminal.expect(f"(?:{re.escape(answer)})?\\n")  # a password is not repeated
            output = output[question.end() :]
        return output

    def _end(self, terminal: Terminal, output: str, status: int) -> None:
        """Compare the rest of the output, if the page shows any, and the status."""
        try:
            ended = terminal.wait()
            if output:
                # The last line may lack its end, as that of curl does.
                terminal.expect(r"(?:\^C)?\n?" + pattern(output).removesuffix(r"\n") + r"\s*\Z")
            assert ended == status, f"$ {terminal.command} ended with {ended}:\n{terminal.output}"
        finally:
            terminal.close()

    def close(self) -> None:
        self._end_python()
        for terminal in self.running:
            terminal.close()
        if self._server:
            self._server.close()
        if (data := self.folder / ".srq").exists():
            # Its last user may have been killed: then the server stays until the next user ends it.
            embedded.serve(data)
            embedded.release(data)
