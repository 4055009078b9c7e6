"""What the tests of the documentation share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.servers import held_port


@pytest.fixture
def site() -> Iterator[str]:
    with held_port() as port:
        yield f"127.0.0.1:{port}"
