"""Makes the long description of the package; everything else is in setup.cfg."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup


def long_description() -> str:
    """The README without its pictures and without links to files: a package index has none of them."""
    text = Path(__file__).with_name("README.md").read_text("utf-8")
    text = re.sub(r"<picture>.*?</picture>\n\n", "", text, flags=re.DOTALL)
    text = re.sub(r"\s\(\[[^\]]*\]\([^)]*\.png\)\)", "", text)
    return re.sub(r"\[([^\]]+)\]\((?!https?://)[^)]*\)", r"\1", text)


setup(long_description=long_description())
