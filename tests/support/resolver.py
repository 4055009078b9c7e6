"""Runs programs with a resolv.conf and an /etc/hosts of their own, and with a name server that never answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.waiting import PATIENT

ROOT = Path(__file__).parents[2]
_MOUNT = 'mount --bind "$0" /etc/resolv.conf && mount --bind "$1" /etc/hosts && shift && exec "$@"'


class Resolver:
    """How a program resolves names: a hosts file, and a name server that takes questions and never answers."""

    def __init__(self, directory: Path) -> None:
        self.hosts = directory / "hosts"
        self.hosts.write_text("")
        self.server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # resolv.conf takes no port, so it is 53; each test process uses a loopback address of its own.
        address = f"127.53.{os.getpid() % 250 + 1}.{os.getpid() // 250 % 250 + 1}"
        try:
            self.server.bind((address, 53))
        except PermissionError:
            address = "192.0.2.53"  # a network that does not exist (RFC 5737): only root may bind port 53
        self.conf = directory / "resolv.conf"
        self.conf.write_text(f"nameserver {address}\nsearch one.test two.test three.test\n")

    def under(self) -> list[str]:
        """The command that runs a program with this hosts file and this name server."""
        # In a mount namespace, only this program sees the mounts. Root may make one; others become "root" in a user
        # namespace.
        become = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        return ["unshare", "--mount", *become, "sh", "-c", _MOUNT, str(self.conf), str(self.hosts)]

    def run(self, program: str, *arguments: str) -> Any:
        """Run a Python program; returns its output, read as JSON."""
        done = subprocess.run(
            [*self.under(), sys.executable, "-c", "import tests.support.lean\n" + program, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=PATIENT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def close(self) -> None:
        self.server.close()
