"""XDP makes of every packet vector what the vector says, with a cold and with a warm flow cache."""

from collections.abc import Iterator

import pytest
from vectors import VECTORS, Vector, entries_of, node
from xdp_node import XdpNode, outcome

from dataplane.reference import Cut, Verdict

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def xdp() -> Iterator[XdpNode]:
    made = XdpNode(node.PORTS)
    try:
        with made.inside():
            yield made
    finally:
        made.close()


def reasons(verdict: Verdict) -> set[int]:
    return set().union(*map(reasons, verdict.pieces)) if isinstance(verdict, Cut) else {outcome(verdict).reason}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_vector(xdp: XdpNode, vector: Vector) -> None:
    xdp.sync(entries_of(vector))
    xdp.forget()
    expected = outcome(vector.expected)
    for temperature in ("cold", "warm"):
        xdp.forget_fragments()
        for port, frame in vector.before:
            xdp.run(port, frame)
        before = xdp.all_drops()
        assert xdp.run(vector.port, vector.frame, expected.reason) == expected, temperature
        after = xdp.all_drops()
        counted = {reason for reason in after if after[reason] != before.get(reason)}
        assert counted <= reasons(vector.expected), "exactly one reason counts"
