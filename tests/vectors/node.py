"""The node that the vectors run on: ports, addresses and table entries of one edge.

    hosts a (port 2), b (port 3) ─ VRF 10 ──────┐
    host  c (port 4, a's addresses) ─ VRF 20 ───┼─ edge ─┬─ fabric: ports 1 and 8 (class 1)
    host  t (port 6, VLAN 100) ─ VRF 10 ────────┘        └─ tunnels: ports 5 (class 2) and 9 (class 3)

Remote prefix number N (10.2.N.0/24, 2001:db8:2:N::/64) has destination group N and forwarding class 100 + N: what
becomes of traffic to it is below.
"""

from dataplane.entry import TableEntry
from dataplane.reasons import DropReason
from dataplane.reference import Port
from vectors.entries import (
    address,
    admit,
    attach,
    deliver,
    encapsulate,
    forward,
    group,
    h_encaps,
    lease,
    link,
    live,
    local_sid,
    move,
    policy,
    port_class,
    punt_frame,
    punt_hop,
    resolve,
    route,
    route_drop,
    translated,
)

FABRIC, A, B, C, TUNNEL, TAGGED, UNUSED, FABRIC_2, TUNNEL_2, MUTE, SMALL = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
"""Port numbers. UNUSED has no attachment entry, MUTE no gateway addresses, SMALL takes packets of SMALL_MTU."""
VLAN = 100
TENANT, OVERLAPPING, AGREEMENT = 10, 20, 30
"""VRFs."""
EDGE = "5f00:1:1::"
"""Outer source address."""
GATEWAY4, GATEWAY6 = "10.1.0.1", "2001:db8:1::1"
A4, A6 = "10.1.0.11", "2001:db8:1::11"
B4, B6 = "10.1.0.12", "2001:db8:1::12"
T4, T6 = "10.1.0.13", "2001:db8:1::13"
MUTE4, MUTE6 = "10.1.0.14", "2001:db8:1::14"
BOOTTIME_S = 1_000.0
"""The model's clock; leases of the vectors are far from any real boot time."""
FAR_S = 0xFFFFFFFF
INNER_MTU, SMALL_MTU = 1300, 1400
S4, S6 = "10.1.0.15", "2001:db8:1::15"
DSCP, COLOR = 46, 0x1ABC
LATER = 2
"""The second candidate path of every SR Policy goes out of FABRIC_2, by nodes 5f00:2:2x."""
TAIL = "10:e001"
"""Node and function of the service SID at the end of paths."""
SERVICE = f"5f00:2:{TAIL}::"


def port_mac(port: int) -> str:
    """Ours."""
    return f"02:00:00:00:00:{port:02x}"


def host_mac(port: int) -> str:
    """Of what is at the other end."""
    return f"02:00:00:00:01:{port:02x}"


def remote4(number: int, host: int = 10) -> str:
    return f"10.2.{number}.{host}"


def remote6(number: int, host: int = 0x10) -> str:
    return f"2001:db8:2:{number:x}::{host:x}"


def containers(number: int, way: int = 1) -> list[str]:
    """Of the path of SR Policy `number`, as h_encaps has them.

    No inner node (1) to four (5) in one container; then a full one and the service SID alone (6) or behind a node (7);
    then four (8).
    """
    nodes = [f"{way}{index:x}" for index in range(1, 16)]
    full = [_container(nodes[start : start + 6]) for start in (0, 6)]
    if number <= 5:
        return [_container(nodes[: number - 1])]
    return {
        6: [full[0], "::"],
        7: [full[0], _container(nodes[6:7])],
        8: [*full, _container(nodes[:6]), _container(nodes[6:10])],
    }[number]


def merge_bits(number: int) -> int:
    return {6: 0, 7: 16, 8: 64}.get(number, 16 * (number - 1))


def segments(number: int, way: int = 1) -> list[str]:
    """As sent by SR Policy `number`, in the order of travel."""
    whole = containers(number, way)
    if not merge_bits(number):
        return [*whole[:-1], SERVICE]
    last = whole[-1].removesuffix("::")
    sent = f"{last}:{TAIL}"
    return [*whole[:-1], sent if sent.count(":") == 7 else f"{sent}::"]


def _container(nodes: list[str]) -> str:
    groups = ["5f00", "2", *nodes]
    return ":".join(groups) + ("" if len(groups) == 8 else "::")


def path(number: int, **changed: int) -> tuple[TableEntry, TableEntry]:
    """Both candidate paths of SR Policy `number`."""
    said = {"merge_bits": merge_bits(number), "color": COLOR, **changed}
    return (
        h_encaps(number, 0, EDGE, FABRIC, containers(number), **said),
        h_encaps(number, 5, EDGE, FABRIC_2, containers(number, LATER), **said),
    )


# TUNNEL has gateway addresses that it must make no use of.
PORTS = {
    number: Port(bytes.fromhex(port_mac(number).replace(":", "")))
    if number in (FABRIC, UNUSED, FABRIC_2, TUNNEL_2, MUTE)
    else Port(bytes.fromhex(port_mac(number).replace(":", "")), address(GATEWAY4), address(GATEWAY6))
    for number in range(1, 11)
}
PORTS[SMALL] = Port(bytes.fromhex(port_mac(SMALL).replace(":", "")), address(GATEWAY4), address(GATEWAY6), SMALL_MTU)

TABLES: list[TableEntry] = [
    link(FABRIC, 1),
    link(FABRIC_2, 1),
    link(FABRIC, 1, vlan=VLAN),
    link(TUNNEL, 2),
    link(TUNNEL_2, 3),
    attach(A, TENANT),
    attach(B, TENANT),
    attach(C, OVERLAPPING),
    attach(TAGGED, TENANT, vlan=VLAN),
    attach(MUTE, TENANT),
    attach(SMALL, TENANT),
]

# Neighbours and sources
for number, prefixes in {
    A: (f"{A4}/32", f"{A6}/128"),
    B: (f"{B4}/32", f"{B6}/128"),
    C: ("10.1.0.8/29", "2001:db8:1::/64"),
    TAGGED: (f"{T4}/32", f"{T6}/128"),
    MUTE: (f"{MUTE4}/32", f"{MUTE6}/128"),
    SMALL: (f"{S4}/32", f"{S6}/128"),
}.items():
    TABLES += [admit(number, prefix) for prefix in prefixes]

# Fabric: node 1 of the far domain by FABRIC, node 2 by FABRIC_2; next hops are numbered as ports here.
for number in (FABRIC, FABRIC_2, TUNNEL, TUNNEL_2):
    TABLES.append(forward(number, number, port_mac(number), host_mac(number)))
TABLES += [
    route(0, "5f00:2:10::/44", FABRIC),
    route(0, "5f00:2:20::/44", FABRIC_2),
    route(0, "5f00:1:10::/44", FABRIC),
    route(0, "5f00:1:20::/44", FABRIC_2),
    route(0, "5f00:3::/32", TUNNEL),
    route_drop(0, "5f00:dead::/32", 70),
    route(0, "5f00:4:1::/48", 999),
    route(0, "5f00:4:2::/48", 30),
    punt_hop(30, 20),
    route(0, "5f00:4:3::/48", 31),
    forward(31, FABRIC, port_mac(FABRIC), host_mac(FABRIC), vlan=7),
    route(0, "5f00:4:4::/48", 32),
    forward(32, 400, port_mac(FABRIC), host_mac(FABRIC)),
    route(0, "5f00:4:5::/48", 33),
    resolve(33, FABRIC, port_mac(FABRIC)),
    route(0, "5f00:6::/32", 35),
    forward(35, SMALL, port_mac(SMALL), host_mac(SMALL)),
]

# SIDs of this node: End and End.X for the fabric, End.DT46 into each VRF for whom it was given
TABLES += [
    local_sid(1, "5f00:1:1::/48", "end"),
    local_sid(1, "5f00:1:1:e000::/51", "drop", reason=DropReason.SID_GONE),
    local_sid(1, "5f00:1:1:2::/64", "end_x", next_hop=FABRIC_2),
    local_sid(1, "5f00:1:1:3::/128", "end_dt46", vrf=TENANT),
    local_sid(1, "5f00:1:1:5::/128", "drop", reason=71),
    local_sid(1, "5f00:1:1:4::/64", "end_dt46", vrf=OVERLAPPING),
    local_sid(2, "5f00:1:1:6::/128", "end_dt46", vrf=AGREEMENT),
    local_sid(3, "5f00:1:1:7::/128", "end_dt46", vrf=AGREEMENT),
]

# Delivery in each VRF
for vrf, hosts in {
    TENANT: ((A, A4, A6), (B, B4, B6), (TAGGED, T4, T6), (MUTE, MUTE4, MUTE6), (SMALL, S4, S6)),
    OVERLAPPING: ((C, A4, A6),),
}.items():
    for number, ipv4, ipv6 in hosts:
        TABLES += [
            route(vrf, f"{ipv4}/32", 100 + number),
            route(vrf, f"{ipv6}/128", 100 + number),
        ]
TABLES += [resolve(100 + number, number, port_mac(number)) for number in (A, B, C, TAGGED, MUTE, SMALL)]
TABLES += [route_drop(TENANT, "10.1.0.200/32", 72), route(TENANT, "10.1.0.201/32", 998)]
FAR4, FAR6 = "10.1.0.203", "2001:db8:1::203"
"""Behind another edge: answered for, never delivered to."""
TABLES += [forward(34, 0, "00:00:00:00:00:00", "00:00:00:00:00:00")]
TABLES += [route(TENANT, f"{FAR4}/32", 34), route(TENANT, f"{FAR6}/128", 34)]
STRANGER = "10.1.0.202"
"""Routed to B's port, which may not use it."""
TABLES.append(route(TENANT, f"{STRANGER}/32", 100 + B))

# Groups and forwarding classes
A_GROUP, B_GROUP = 200, 201
REMOTES = range(1, 31)
for number in REMOTES:
    TABLES += [
        group("destination", TENANT, f"10.2.{number}.0/24", number),
        group("destination", TENANT, f"2001:db8:2:{number:x}::/64", number),
        policy(TENANT, 100, "permit", 100 + number, destination_group=(number, 0xFFFF)),
    ]
TABLES += [
    group("source", TENANT, f"{A4}/32", A_GROUP),
    group("source", TENANT, f"{A6}/128", A_GROUP),
    group("source", TENANT, "10.1.0.0/24", B_GROUP),
    group("source", TENANT, "2001:db8:1::/64", B_GROUP),
    group("destination", TENANT, "10.1.0.0/24", 50),
    group("destination", TENANT, "2001:db8:1::/64", 50),
    policy(TENANT, 10, "permit", 10, destination_group=(50, 0xFFFF)),
    deliver(10, TENANT),
    policy(OVERLAPPING, 10, "permit", 20),
    deliver(20, OVERLAPPING),
    lease(20, FAR_S),
]

# What becomes of traffic to remote N: 1 to 8, an SR Policy with two candidate paths
for number in range(1, 9):
    TABLES += [
        encapsulate(100 + number, number, 1, SERVICE, dscp=DSCP, inner_mtu=INNER_MTU),
        *path(number),
    ]
TABLES.append(live(1, 0b0010_0001))
EXPIRED, LEASED, UNSTEERED, PATHLESS, DEAD, ELSEWHERE, HOPLESS, ISOLATED = 10, 11, 12, 13, 14, 15, 16, 17
FULL, PUNTED, UNLIMITED, VLAN_HOP, NO_PORT, NEIGHBORLESS, UNDELIVERED, NARROW = 18, 19, 20, 21, 22, 23, 24, 25
PORT_443, PORT_RANGES, MASKED, BY_SMALL, TRANSLATED = 26, 27, 28, 29, 30
_FIRST_HOPS = {
    EXPIRED: FABRIC,
    LEASED: FABRIC,
    HOPLESS: 999,
    PUNTED: 30,
    VLAN_HOP: 31,
    NO_PORT: 32,
    NEIGHBORLESS: 33,
    BY_SMALL: 35,
}
for number, first_hop in _FIRST_HOPS.items():
    TABLES += [encapsulate(100 + number, number, 1, SERVICE), h_encaps(number, 0, EDGE, first_hop)]
TABLES += [
    lease(100 + EXPIRED, 1),
    lease(100 + LEASED, FAR_S),
    encapsulate(100 + PATHLESS, PATHLESS, 1, SERVICE),
    encapsulate(100 + DEAD, 1, 3, SERVICE),
    live(3, 0b1000_0010),
    policy(TENANT, 200, "drop", DropReason.ISOLATED, destination_group=(ISOLATED, 0xFFFF)),
    encapsulate(100 + UNLIMITED, UNLIMITED, 1, SERVICE),
    h_encaps(UNLIMITED, 0, EDGE, FABRIC, containers(2), merge_bits=merge_bits(2)),
    deliver(100 + UNDELIVERED, TENANT),
    deliver(100 + ELSEWHERE, OVERLAPPING),
    route(OVERLAPPING, remote4(ELSEWHERE) + "/32", 100 + C),
    route(OVERLAPPING, remote6(ELSEWHERE) + "/128", 100 + C),
    encapsulate(100 + NARROW, NARROW, 1, SERVICE, inner_mtu=64),
    h_encaps(NARROW, 0, EDGE, FABRIC),
    encapsulate(100 + FULL, FULL, 1, SERVICE),
    h_encaps(FULL, 0, EDGE, FABRIC, [containers(6)[0]] * 3 + ["::"]),
    translated(encapsulate(100 + TRANSLATED, 1, 1, SERVICE, dscp=DSCP, inner_mtu=INNER_MTU)),
    move("source", 100 + TRANSLATED, "10.1.0.0/24", "10.65.7.0/24"),
    move("source", 100 + TRANSLATED, "2001:db8:1::/64", "2001:db8:65:7::/64"),
    move("destination", 100 + TRANSLATED, f"10.2.{TRANSLATED}.0/24", "10.1.0.0/24"),
    move("destination", 100 + TRANSLATED, f"2001:db8:2:{TRANSLATED:x}::/64", "2001:db8:1::/64"),
]

# TCP 443 to PORT_443 and its return by the agreement: a VRF that packets come out into, and are checked again
TABLES += [
    port_class("destination", 6, 0, 1023, 1, priority=10),
    port_class("destination", 6, 443, 443, 2, priority=20),
    port_class("destination", 6, 400, 500, 3, priority=15),
    port_class("destination", 17, 5000, 5999, 4, priority=1),
    port_class("source", 6, 443, 443, 2, priority=20),
    port_class("source", 6, 0, 65535, 9, priority=1),
    policy(TENANT, 200, "drop", 73, destination_group=(PORT_443, 0xFFFF)),
    policy(TENANT, 300, "permit", 101, destination_group=(PORT_443, 0xFFFF), l4_class=(0, 0xE),
           destination_port_class=(2, 0xFFFF)),
    policy(TENANT, 200, "drop", 74, destination_group=(PORT_RANGES, 0xFFFF)),
    policy(TENANT, 300, "permit", 101, destination_group=(PORT_RANGES, 0xFFFF), destination_port_class=(1, 0xFFFF)),
    policy(TENANT, 301, "permit", 102, destination_group=(PORT_RANGES, 0xFFFF), destination_port_class=(2, 0xFFFF)),
    policy(TENANT, 302, "permit", 103, destination_group=(PORT_RANGES, 0xFFFF), destination_port_class=(3, 0xFFFF)),
    policy(TENANT, 303, "permit", 104, destination_group=(PORT_RANGES, 0xFFFF), destination_port_class=(4, 0xFFFF)),
    policy(TENANT, 400, "drop", 75, source_group=(A_GROUP, 0x00FF), destination_group=(MASKED, 0xFFFF)),
    policy(TENANT, 401, "permit", 101, destination_group=(MASKED, 0xFFFF), l4_class=(4, 0xE)),
    policy(TENANT, 402, "drop", 76, destination_group=(MASKED, 0xFFFF), l4_class=(5, 0xF)),
    policy(AGREEMENT, 10, "permit", 30, l4_class=(1, 0xF), source_port_class=(2, 0xFFFF)),
    policy(AGREEMENT, 11, "permit", 31, l4_class=(3, 0xF)),
    policy(AGREEMENT, 12, "permit", 32, l4_class=(2, 0xF)),
    deliver(30, AGREEMENT),
    deliver(31, AGREEMENT),
    encapsulate(32, 3, 1, SERVICE, dscp=DSCP, inner_mtu=INNER_MTU),
    route(AGREEMENT, f"{A4}/32", 100 + A),
    route(AGREEMENT, f"{A6}/128", 100 + A),
]  # fmt: skip

LLDP, WATCHED = 0x88CC, 0x88B5
TABLES += [
    punt_frame(10, "punt", 16, ether_type=(LLDP, 0xFFFF)),
    punt_frame(20, "drop", 77, ether_type=(LLDP, 0xFFFF), ingress_class=(3, 0xFFFF)),
    punt_frame(5, "punt", 17, ether_type=(0x88B4, 0xFFFE)),
]
PUNT_ECHO = [
    punt_frame(30, "punt", 18, ether_type=(0x0800, 0xFFFF), protocol=(1, 0xFF), icmp_type=(8, 0xFF)),
    punt_frame(31, "punt", 19, ether_type=(0x86DD, 0xFFFF), protocol=(58, 0xFF), icmp_type=(128, 0xFF)),
    punt_frame(32, "drop", 78, ether_type=(0x0806, 0xFFFF), ingress_class=(0, 0xFFFF)),
]
"""Entries that match IP and ARP; added by the vectors that are about them."""
