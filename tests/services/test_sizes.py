"""Payloads of realistic sizes and numbers that are too large or too slow for the other tests."""

from __future__ import annotations

from contextlib import closing

from tests.queue.test_sizes import MB, put_beside_another_client
from tests.support.proxy import Proxy

MIB = 2**20


def test_a_thousand_payloads_of_1_mb_in_one_call(server, at):
    """The server needs 1 GB for them."""
    put_beside_another_client(server, at, 1000)


def test_payloads_of_8_mib_over_a_line_of_10_mbit(project, server_url):
    """Sending one takes longer than the time limit, and sending two nearly as long as a lease."""
    options = {"HANDLER": "tests.support.handlers.beginning", "MAX_PAYLOAD_BYTES": 9 * MIB, "TIMEOUT": 5, "LEASE": 15}
    with closing(Proxy(server_url, rate=1.25 * MB)) as proxy:
        project.configure({"large": options}, project.settings.SRQ_DEFAULTS)
        project.patient("large").put_many([f"{n}{'x' * 8 * MIB}" for n in range(2)])
        project.configure({"large": options}, {**project.settings.SRQ_DEFAULTS, "URL": proxy.url})
        code, _, err = project.run("srq_consume", "large", "--burst")
    assert (code, "unavailable" in err) == (0, False)
    assert project.lines() == [f"{n} {8 * MIB + 1} 1" for n in range(2)]
