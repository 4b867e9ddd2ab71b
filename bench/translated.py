"""Packets between two networks with the same addresses: XDP against the reference model and scapy's checksums."""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.report import Row, row

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from translated_packets import different
from vectors import node
from xdp_node import XdpNode

PACKETS = 100_000


def rows() -> Iterator[Row]:
    xdp = XdpNode(node.PORTS)
    try:
        with xdp.inside():
            yield row(
                "know.translated", different(xdp, random.Random(8), PACKETS), "different", better="lower", target=0
            )
    finally:
        xdp.close()
