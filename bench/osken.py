"""os-ken's OpenFlow 1.3 encoder, in which others have written down what the octets are. Only its codec is loaded."""

import os
from ipaddress import IPv6Address, IPv6Network
from typing import Any

os.environ.setdefault("OSKEN_HUB_TYPE", "native")

from os_ken.ofproto import ofproto_v1_3 as osken_numbers
from os_ken.ofproto import ofproto_v1_3_parser as osken

from controller.model.entry import OwnedEntry
from controller.southbound.openflow import flows


class Datapath:
    ofproto, ofproto_parser, id = osken_numbers, osken, 1


OSKEN = Datapath()


def by_osken(entry: OwnedEntry, xid: int) -> bytes:
    """The flow-mod that adds it, in os-ken's words."""
    fields: dict[str, Any] = {}
    for each in entry.match:
        value: Any = str(IPv6Address(each.value)) if each.field in ("ipv6_src", "ipv6_dst") else each.value
        if each.prefix_length is not None:
            value = (value, str(IPv6Network((0, each.prefix_length)).netmask))
        elif each.mask is not None:
            value = (value, each.mask)
        fields[each.field] = value
    if any(name.startswith("ipv6") for name in fields):
        fields["eth_type"] = 0x86DD
    params = dict(entry.params)
    actions = []
    if entry.action == "forward":
        actions = [
            osken.OFPActionDecNwTtl(),
            osken.OFPActionSetField(eth_src=params["source_mac"].to_bytes(6).hex(":")),
            osken.OFPActionSetField(eth_dst=params["destination_mac"].to_bytes(6).hex(":")),
            osken.OFPActionOutput(params["port"], 0),
        ]
    elif entry.action == "punt":
        actions = [osken.OFPActionOutput(osken_numbers.OFPP_CONTROLLER, osken_numbers.OFPCML_NO_BUFFER)]
    apply = osken.OFPInstructionActions(osken_numbers.OFPIT_APPLY_ACTIONS, actions)
    return serialized(
        osken.OFPFlowMod(
            OSKEN,
            cookie=flows.cookie(entry.owner),
            priority=entry.priority,
            out_port=osken_numbers.OFPP_ANY,
            out_group=osken_numbers.OFPG_ANY,
            match=osken.OFPMatch(**fields),
            instructions=[apply] if actions else [],
        ),
        xid,
    )


def serialized(message: Any, xid: int) -> bytes:
    message.set_xid(xid)
    message.serialize()
    return bytes(message.buf)
