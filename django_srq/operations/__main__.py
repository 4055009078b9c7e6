"""``python -m django_srq.operations claim`` prints a script as the server gets it, with its comments."""

from __future__ import annotations

import argparse
import sys

from django_srq.operations import scripts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m django_srq.operations", description=__doc__)
    parser.add_argument("script", choices=scripts.names())
    sys.stdout.write(scripts.explained(parser.parse_args().script))


if __name__ == "__main__":
    main()
