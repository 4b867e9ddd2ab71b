"""P4 switches of the inventory: P4Runtime targets with our pipeline that run no agent of ours, such as BMv2.

They are nodes like any other to a path: their SIDs are segments. Hosts and tunnels need an agent beside the tables.
"""

import re

from controller.model.intent import Value

DEVICE_ID_MAX = 2**64 - 1
_AGENT = re.compile(r"p4runtime:([1-9][0-9]{0,19})@(.+)", re.ASCII)


class P4Switch(Value, frozen=True, kw_only=True):
    device_id: int
    address: str
    """Where its P4Runtime server listens: `unix:/path` or `host:port`."""


def p4_switch(agent: str) -> P4Switch | None:
    """What `agent` of a node says (`p4runtime:1@unix:/path`); None: it is no P4 switch."""
    found = _AGENT.fullmatch(agent)
    if found is None or int(found[1]) > DEVICE_ID_MAX:
        return None
    return P4Switch(device_id=int(found[1]), address=found[2])


def port_mac(locator: int, port: int) -> int:
    """P4Runtime does not tell the MACs of ports, so they are given: locally administered ones (IEEE 802 §8.4.2), of
    the node's place in its domain. `locator`: its first address; `port`: at most 511."""
    block, node = locator >> 96 & 0xFFFF, locator >> 80 & 0xFFFF
    return (0x02 | port >> 8 << 2) << 40 | block << 24 | node << 8 | port & 0xFF
