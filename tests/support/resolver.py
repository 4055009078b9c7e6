"""Programs that run with a resolv.conf and an /etc/hosts of their own, and a name server that never answers."""

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
    """A machine's ways to resolve names: a hosts file, and a name server that takes questions and answers none."""

    def __init__(self, directory: Path) -> None:
        self.hosts = directory / "hosts"
        self.hosts.write_text("")
        self.server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # The resolver knows no port but 53; of all addresses of this machine, a test has one of its own.
        address = f"127.53.{os.getpid() % 250 + 1}.{os.getpid() // 250 % 250 + 1}"
        try:
            self.server.bind((address, 53))
        except PermissionError:
            address = "192.0.2.53"  # of a network that is nowhere (RFC 5737): only root may have such a port
        self.conf = directory / "resolv.conf"
        self.conf.write_text(f"nameserver {address}\nsearch one.test two.test three.test\n")

    def under(self) -> list[str]:
        """The command under which a program runs that is to resolve names in these ways."""
        # A mount namespace: what is mounted there is seen by this program alone. Root may make one, others as "root".
        become = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        return ["unshare", "--mount", *become, "sh", "-c", _MOUNT, str(self.conf), str(self.hosts)]

    def run(self, program: str, *arguments: str) -> Any:
        """What a Python program prints, as JSON."""
        done = subprocess.run(
            [*self.under(), sys.executable, "-c", program, *arguments],
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
