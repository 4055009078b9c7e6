"""``python -m django_srq.operations claim`` prints a script as the server gets it, with its comments.

Without a name it prints the names of all scripts.
"""

from __future__ import annotations

import argparse
import sys

from django_srq.operations import scripts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m django_srq.operations", description=__doc__)
    parser.add_argument("script", nargs="?", choices=scripts.names())
    script = parser.parse_args().script
    sys.stdout.write(scripts.explained(script) if script else "\n".join([*scripts.names(), ""]))


if __name__ == "__main__":
    main()
