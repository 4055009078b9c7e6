"""``python -m tests.docs`` prints the words of each page, and how many of its blocks run or are checked otherwise."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tests.docs.pages import FENCE, Block, blocks, name, pages


def words(page: Path) -> int:
    """The words of the prose and the tables: what is outside blocks and comments."""
    text = re.sub(r"<!--.*?-->", "", FENCE.sub("", page.read_text("utf-8")), flags=re.DOTALL)
    return sum(re.search(r"\w", word) is not None for word in text.split())


def kind(block: Block) -> str:
    if block.note in ("original", "checked by"):
        return block.note
    if block.runs:
        return "runs"
    return block.note or "plain"


def main() -> None:
    columns = ("words", "runs", "original", "checked by", "not run", "plain")
    print(f"{'page':32}" + "".join(f"{column:>12}" for column in columns))
    total: Counter[str] = Counter()
    for page in pages():
        counts = Counter(map(kind, blocks(page)), words=words(page))
        total += counts
        print(f"{name(page):32}" + "".join(f"{counts[column]:12}" for column in columns))
    print(f"{'':32}" + "".join(f"{total[column]:12}" for column in columns))


if __name__ == "__main__":
    main()
