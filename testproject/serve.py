"""The test project on http://127.0.0.1:8000/: a web server and a consumer, both ended by Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Reachable from this machine only: the superuser's password is no secret.
ADDRESS = f"127.0.0.1:{os.environ.get('PORT', '8000')}"


def main() -> int:
    os.environ["DJANGO_SETTINGS_MODULE"] = "testproject.settings"
    sys.path.insert(0, str(HERE))
    import django

    django.setup()
    from django.contrib.auth.models import User
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    if not User.objects.filter(username="admin").exists():
        User.objects.create_superuser("admin", password="admin")
    print(f"Shop:  http://{ADDRESS}/\nAdmin: http://{ADDRESS}/admin/  (user admin, password admin)\nCtrl-C ends both.")
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for jobs started with &
    processes = [start("srq_consume"), start("runserver", "--noreload", "--verbosity", "0", ADDRESS)]
    try:
        while all(process.poll() is None for process in processes):
            time.sleep(0.2)
        print("The web server or the consumer ended by itself; see above.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)  # not SIGTERM: runserver would end without releasing the embedded server
        try:
            for process in processes:
                process.wait()
        except KeyboardInterrupt:  # the second Ctrl-C; the item in hand comes back when its lease ends
            for process in processes:
                process.kill()


def start(*arguments: str) -> subprocess.Popen[bytes]:
    # In a process group of its own, it does not get Ctrl-C; main sends one SIGINT, and the item in hand is finished.
    return subprocess.Popen([sys.executable, HERE / "manage.py", *arguments], process_group=0)


if __name__ == "__main__":
    sys.exit(main())
