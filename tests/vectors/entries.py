"""Short ways to write table entries in tests: one function a table."""

from ipaddress import ip_address, ip_network

from dataplane.entry import FieldMatch, TableEntry

MAPPED = 0xFFFF << 32


def address(text: str) -> int:
    """The 128 bits of an address, IPv4 as ::ffff:0:0/96."""
    parsed = ip_address(text)
    return int(parsed) | (MAPPED if parsed.version == 4 else 0)


def mac(text: str) -> int:
    return int(text.replace(":", ""), 16)


def _prefix(field: str, text: str) -> FieldMatch:
    network = ip_network(text)
    length = network.prefixlen + (96 if network.version == 4 else 0)
    return FieldMatch(field, address(str(network.network_address)), prefix_length=length)


def _lpm(table: str, exact: tuple[str, int], field: str, prefix: str, action: str, **params: int) -> TableEntry:
    # A prefix of length 0 is left out (P4Runtime §9.1.1).
    match = _prefix(field, prefix)
    fields = (FieldMatch(*exact), match) if match.prefix_length else (FieldMatch(*exact),)
    return TableEntry(table, fields, action, tuple(params.items()))


def _exact(table: str, key: dict[str, int], action: str, **params: int) -> TableEntry:
    return TableEntry(table, tuple(FieldMatch(*item) for item in key.items()), action, tuple(params.items()))


def attach(port: int, context: int, vlan: int = 0, action: str = "attach") -> TableEntry:
    return _exact("attachment", {"ingress_port": port, "vlan_id": vlan}, action, context=context)


def link(port: int, ingress_class: int, vlan: int = 0) -> TableEntry:
    return _exact("attachment", {"ingress_port": port, "vlan_id": vlan}, "link", ingress_class=ingress_class)


def punt_frame(priority: int, action: str, reason: int, **key: tuple[int, int]) -> TableEntry:
    order = ("ingress_class", "ether_type", "protocol", "icmp_type")
    fields = tuple(FieldMatch(name, key[name][0], mask=key[name][1]) for name in order if name in key)
    return TableEntry("punt_frame", fields, action, (("reason", reason),), priority)


def admit(port: int, prefix: str) -> TableEntry:
    return _lpm("source_guard", ("ingress_port", port), "source", prefix, "admit")


def local_sid(ingress_class: int, prefix: str, action: str, **params: int) -> TableEntry:
    if action == "end_dt46":
        params = {"answer_leg": 0, **params}
        params["answer_leg"] = params.pop("answer_leg")  # the order of the P4Info
    return _lpm("local_sid", ("ingress_class", ingress_class), "destination", prefix, action, **params)


def group(side: str, context: int, prefix: str, number: int) -> TableEntry:
    table = f"{side}_group"
    return _lpm(table, ("context", context), "address", prefix, f"set_{table}", group=number)


def port_class(side: str, protocol: int, low: int, high: int, number: int, priority: int) -> TableEntry:
    table = f"{side}_port_class"
    any_port = (low, high) == (0, 0xFFFF)
    fields = (FieldMatch("protocol", protocol), *(() if any_port else (FieldMatch("port", low, high=high),)))
    return TableEntry(table, fields, f"set_{table}", (("port_class", number),), priority)


def policy(context: int, priority: int, action: str, value: int, **key: tuple[int, int]) -> TableEntry:
    """`permit` a leg, also as a request or reply that is remembered in network 1, or `drop` with a reason.

    `key` is value and mask by field.
    """
    order = ("source_group", "destination_group", "l4_class", "source_port_class", "destination_port_class")
    fields = tuple(FieldMatch(name, key[name][0], mask=key[name][1]) for name in order if name in key)
    remembers = action in ("permit_request", "permit_reply")
    param = ("reason" if action == "drop" else "leg", value)
    params = (param, ("network", 1)) if remembers else (param,)
    return TableEntry("flow_policy", (FieldMatch("context", context), *fields), action, params, priority)


def lease(leg: int, boottime_s: int) -> TableEntry:
    return _exact("lease", {"leg": leg}, "expire_at", boottime_s=boottime_s)


def deliver(leg: int) -> TableEntry:
    return _exact("steer", {"leg": leg}, "deliver")


def encapsulate(leg: int, sr_policy: int, liveness_group: int) -> TableEntry:
    return _exact("steer", {"leg": leg}, "encapsulate", sr_policy=sr_policy, liveness_group=liveness_group)


def live(liveness_group: int, bits: int) -> TableEntry:
    return _exact("path_liveness", {"liveness_group": liveness_group}, "set_live", live=bits)


def h_encaps(
    sr_policy: int, slot: int, source: str, segments: list[str], *, dscp: int = 0, color: int = 0, inner_mtu: int = 0
) -> TableEntry:
    """`segments` in the order of travel; the entry has them as on the wire, the last one first."""
    on_wire = [address(segment) for segment in reversed(segments)] + [0] * (8 - len(segments))
    params = {
        "source": address(source),
        "dscp": dscp,
        "color": color,
        "inner_mtu": inner_mtu,
        "count": len(segments),
        **{f"segment_list_{index}": segment for index, segment in enumerate(on_wire)},
    }
    fields = (FieldMatch("sr_policy", sr_policy), FieldMatch("live", 1 << slot, mask=1 << slot))
    return TableEntry("sr_policy", fields, "h_encaps", tuple(params.items()), priority=8 - slot)


def route(context: int, prefix: str, next_hop: int) -> TableEntry:
    return _lpm("route", ("context", context), "destination", prefix, "set_next_hop", next_hop=next_hop)


def route_drop(context: int, prefix: str, reason: int) -> TableEntry:
    return _lpm("route", ("context", context), "destination", prefix, "drop", reason=reason)


def forward(next_hop: int, port: int, source: str, destination: str, vlan: int = 0) -> TableEntry:
    params = {"port": port, "source_mac": mac(source), "destination_mac": mac(destination), "vlan": vlan}
    return _exact("next_hop", {"next_hop": next_hop}, "forward", **params)


def resolve(next_hop: int, port: int, source: str, vlan: int = 0) -> TableEntry:
    return _exact("next_hop", {"next_hop": next_hop}, "resolve", port=port, source_mac=mac(source), vlan=vlan)


def punt_hop(next_hop: int, reason: int) -> TableEntry:
    return _exact("next_hop", {"next_hop": next_hop}, "punt", reason=reason)
