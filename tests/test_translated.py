"""Translation of prefixes in XDP, on generated packets; the packet vectors are in vectors/translated.py."""

import random

import pytest
from translated_packets import different
from vectors import node
from xdp_node import XdpNode

pytestmark = pytest.mark.root
PACKETS = 3000


def test_xdp_the_model_and_scapy_agree() -> None:
    xdp = XdpNode(node.PORTS)
    try:
        with xdp.inside():
            assert different(xdp, random.Random(6), PACKETS) == 0
    finally:
        xdp.close()
