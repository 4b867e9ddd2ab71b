"""Short ways to write table entries in tests: one function a table."""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network

from dataplane.entry import FieldMatch, TableEntry
from dataplane.reasons import CONTAINERS

MAPPED = 0xFFFF << 32


def class_of(vrf: int) -> int:
    """The policy class of what comes into `vrf`, unless something else is said: another number, so that one taken for
    the other shows."""
    return vrf + 1


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


def attach(port: int, vrf: int, vlan: int = 0, action: str = "attach", policy_class: int | None = None) -> TableEntry:
    whence = {"vrf": vrf, "policy_class": class_of(vrf) if policy_class is None else policy_class}
    return _exact("attachment", {"ingress_port": port, "vlan_id": vlan}, action, **whence)


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
        params = {"vrf": params["vrf"], "policy_class": class_of(params["vrf"]), "answer_class": 0, **params}
    return _lpm("local_sid", ("ingress_class", ingress_class), "destination", prefix, action, **params)


def group(side: str, vrf: int, prefix: str, number: int) -> TableEntry:
    table = f"{side}_group"
    return _lpm(table, ("vrf", vrf), "address", prefix, f"set_{table}", group=number)


def port_class(side: str, protocol: int, low: int, high: int, number: int, priority: int) -> TableEntry:
    table = f"{side}_port_class"
    any_port = (low, high) == (0, 0xFFFF)
    fields = (FieldMatch("protocol", protocol), *(() if any_port else (FieldMatch("port", low, high=high),)))
    return TableEntry(table, fields, f"set_{table}", (("port_class", number),), priority)


def policy(
    vrf: int,
    priority: int,
    action: str,
    value: int,
    policy_class: int | None = None,
    *,
    until_s: int = 0,
    **key: tuple[int, int],
) -> TableEntry:
    """`permit` as a forwarding class, also as a request or reply remembered in network 1, or `drop` with a reason; for
    `drop_until` until a boot time.

    Of the class of `vrf`, or another one. `key` is value and mask by field.
    """
    order = ("source_group", "destination_group", "l4_class", "source_port_class", "destination_port_class")
    fields = tuple(FieldMatch(name, key[name][0], mask=key[name][1]) for name in order if name in key)
    remembers = action in ("permit_request", "permit_reply")
    param = ("reason" if action in ("drop", "drop_until") else "forwarding_class", value)
    params = (param, ("network", 1)) if remembers else (param,)
    if action == "drop_until":
        params = (param, ("boottime_s", until_s))
    policy_class = class_of(vrf) if policy_class is None else policy_class
    return TableEntry("flow_policy", (FieldMatch("policy_class", policy_class), *fields), action, params, priority)


def lease(forwarding_class: int, boottime_s: int) -> TableEntry:
    return _exact("lease", {"forwarding_class": forwarding_class}, "expire_at", boottime_s=boottime_s)


def deliver(forwarding_class: int, vrf: int) -> TableEntry:
    return _exact("steer", {"forwarding_class": forwarding_class}, "deliver", vrf=vrf)


def encapsulate(
    forwarding_class: int,
    sr_policy: int,
    liveness_group: int,
    service_sid: str,
    *,
    dscp: int = 0,
    inner_mtu: int = 0,
) -> TableEntry:
    way = {"sr_policy": sr_policy, "liveness_group": liveness_group, "service_sid": address(service_sid)}
    key = {"forwarding_class": forwarding_class}
    return _exact("steer", key, "encapsulate", **way, dscp=dscp, inner_mtu=inner_mtu)


def translated(entry: TableEntry) -> TableEntry:
    """A `steer` entry whose class is translated."""
    return replace(entry, action=f"translate_{entry.action}")


def move(side: str, forwarding_class: int, prefix: str, to: str) -> TableEntry:
    """Of `source` or `destination`: from one prefix into another of the same length."""
    network = ip_network(to)
    params = (("prefix", address(str(network.network_address))), ("host_mask", int(network.hostmask)))
    entry = _lpm(f"translate_{side}", ("forwarding_class", forwarding_class), "address", prefix, f"move_{side}")
    return replace(entry, params=params)


def to_service(forwarding_class: int, ipv4_next_hop: int, ipv6_next_hop: int, *, inner_mtu: int = 0) -> TableEntry:
    hops = {"ipv4_next_hop": ipv4_next_hop, "ipv6_next_hop": ipv6_next_hop}
    return _exact("steer", {"forwarding_class": forwarding_class}, "to_service", **hops, inner_mtu=inner_mtu)


def live(liveness_group: int, bits: int) -> TableEntry:
    return _exact("path_liveness", {"liveness_group": liveness_group}, "set_live", live=bits)


def h_encaps(
    sr_policy: int,
    slot: int,
    source: str,
    first_hop: int,
    containers: Sequence[str] = ("::",),
    *,
    merge_bits: int = 0,
    color: int = 0,
) -> TableEntry:
    """`containers` in the order of travel; `merge_bits` 0: the service SID goes instead of the last."""
    params = {
        "source": address(source),
        "color": color,
        "first_hop": first_hop,
        "last_container": len(containers) - 1,
        "merge_bits": merge_bits,
        **{f"container_{index}": 0 for index in range(CONTAINERS)},
        **{f"container_{index}": address(container) for index, container in enumerate(containers)},
    }
    fields = (FieldMatch("sr_policy", sr_policy), FieldMatch("live", 1 << slot, mask=1 << slot))
    return TableEntry("sr_policy", fields, "h_encaps", tuple(params.items()), priority=8 - slot)


def route(vrf: int, prefix: str, next_hop: int) -> TableEntry:
    return _lpm("route", ("vrf", vrf), "destination", prefix, "set_next_hop", next_hop=next_hop)


def route_drop(vrf: int, prefix: str, reason: int) -> TableEntry:
    return _lpm("route", ("vrf", vrf), "destination", prefix, "drop", reason=reason)


def forward(next_hop: int, port: int, source: str, destination: str, vlan: int = 0) -> TableEntry:
    params = {"port": port, "source_mac": mac(source), "destination_mac": mac(destination), "vlan": vlan}
    return _exact("next_hop", {"next_hop": next_hop}, "forward", **params)


def resolve(next_hop: int, port: int, source: str, vlan: int = 0) -> TableEntry:
    return _exact("next_hop", {"next_hop": next_hop}, "resolve", port=port, source_mac=mac(source), vlan=vlan)


def resolve_via(next_hop: int, port: int, source: str, via: str, vlan: int = 0) -> TableEntry:
    params = {"port": port, "source_mac": mac(source), "vlan": vlan, "via": address(via)}
    return _exact("next_hop", {"next_hop": next_hop}, "resolve_via", **params)


def punt_hop(next_hop: int, reason: int) -> TableEntry:
    return _exact("next_hop", {"next_hop": next_hop}, "punt", reason=reason)


def neighbor(port: int, text: str, at: str) -> TableEntry:
    return _exact("neighbor", {"port": port, "address": address(text)}, "set_mac", mac=mac(at))
