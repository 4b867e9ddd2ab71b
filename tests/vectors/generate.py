"""Random but valid table sets, and mutated frames: what the implementations are compared on beside the vectors."""

import random
from ipaddress import ip_network

from dataplane.entry import TableEntry
from dataplane.reference.checksum import checksum
from vectors import VECTORS, entries, fragments, node

PORTS = range(1, 11)
VRFS = (node.TENANT, node.OVERLAPPING, node.AGREEMENT)
OTHER_CLASS = 5
"""Of each VRF there is a second policy class, so much higher."""
CLASSES = range(1, 25)
"""Forwarding classes."""
GROUPS = range(1, 6)
POLICIES = range(1, 9)
HOPS = range(1, 20)
REASONS = range(64, 90)
PREFIXES = (
    *(f"{ipv4}/32" for ipv4 in (node.A4, node.B4, node.T4, node.MUTE4)),
    *(f"{ipv6}/128" for ipv6 in (node.A6, node.B6, node.T6, node.MUTE6)),
    *(f"10.2.{number}.0/24" for number in range(1, 29)),
    *(f"2001:db8:2:{number:x}::/64" for number in range(1, 29)),
    *("10.1.0.0/24", "10.1.0.8/29", "10.0.0.0/8", "0.0.0.0/0", "2001:db8:1::/64", "2001:db8::/32", "2000::/3", "::/0"),
)
SIDS = (
    *(f"5f00:1:1:{number}::" for number in range(2, 8)),
    *("5f00:1:1::", "5f00:1:1:10::", "5f00:1:1:2:20:e001::", "5f00:1:1:10:11:12:13:e001", "5f00:1:1:0:10::"),
    *("5f00:1:10::", "5f00:1:20:e001::", "5f00:0:0:1::", "5f00:1:0:1::", "2001:db8::1"),
    *(f"5f00:2:{number:x}:1::" for number in (*range(0x10, 0x18), *range(0x20, 0x28))),
    *("5f00:9::", "5f00:3::1", "5f00:dead::1", "5f00:4:1::", "5f00:4:2::", "5f00:4:3::"),
)
SID_PREFIXES = (
    *(f"{sid}/128" for sid in SIDS),
    "5f00:1:1::/48",
    "5f00:1:1:2::/64",
    "5f00:1:10::/44",
    "5f00:2::/32",
    "5f00:2:10::/44",
    "5f00::/16",
    "::/0",
)
ANY = 0xFFFF


KEPT = 0.97
ADDED = {
    "attachment": 0.04,
    "punt_frame": 0.3,
    "local_sid": 0.15,
    "steer": 0.2,
    "route": 0.2,
    "next_hop": 0.1,
    "neighbor": 0.3,
}
ADDED_ELSE = 0.35
TAKEN_PRIORITIES = {entry.priority for entry in node.TABLES}


def tables(rng: random.Random) -> list[TableEntry]:
    """Most entries of the vectors' node, so that packets come far, and random ones beside and over them."""
    base = [entry for entry in node.TABLES if rng.random() < KEPT]
    added = [entry for entry in random_entries(rng) if rng.random() < ADDED.get(entry.table, ADDED_ELSE)]
    by_key = {(entry.table, entry.match, entry.priority): entry for entry in (*base, *added)}
    return list(by_key.values())


def random_entries(rng: random.Random) -> list[TableEntry]:
    """Entries from pools that make hits likely. Priorities are nobody else's: between equals P4Runtime picks any."""
    return [
        *_attachments(rng),
        *_segments(rng),
        *_groups(rng),
        *_policies(rng),
        *_ways(rng),
        *_routes(rng),
    ]


def _priorities(rng: random.Random, count: int) -> list[int]:
    return rng.sample(sorted(set(range(1, 1000)) - TAKEN_PRIORITIES), count)


def _attachments(rng: random.Random) -> list[TableEntry]:
    made = []
    for port in PORTS:
        for vlan in (0, node.VLAN):
            kind = rng.random()
            if kind < 0.45:
                action = rng.choice(("attach", "attach_reject"))
                made.append(entries.attach(port, *_whence(rng, vlan, action)))
            elif kind < 0.9:
                made.append(entries.link(port, rng.choice((1, 1, 2, 3)), vlan))
        made += [entries.admit(port, prefix) for prefix in rng.sample(PREFIXES, 8)]
        if rng.random() < 0.5:
            made += [entries.admit(port, "0.0.0.0/0"), entries.admit(port, "::/0")]
    keys = {
        "ingress_class": ((0, ANY), (1, ANY), (2, 0xFFFE)),
        "ether_type": ((0x0800, ANY), (0x0806, ANY), (0x86DD, ANY), (node.LLDP, ANY), (0x88B4, 0xFFFE)),
        "protocol": ((1, 0xFF), (6, 0xFF), (58, 0xFF), (0x10, 0xF0)),
        "icmp_type": ((8, 0xFF), (128, 0xFF), (0x80, 0x80)),
    }
    for priority in _priorities(rng, rng.randrange(4)):
        chosen = {name: rng.choice(values) for name, values in keys.items() if rng.random() < 0.6}
        if len(chosen) > 1:
            made.append(entries.punt_frame(priority, rng.choice(("punt", "drop")), rng.choice(REASONS), **chosen))
    return made


def _into(rng: random.Random) -> dict[str, int]:
    vrf = rng.choice(VRFS)
    return {"vrf": vrf, "policy_class": vrf + rng.choice((1, 1, OTHER_CLASS))}


def _whence(rng: random.Random, vlan: int, action: str) -> tuple[int, int, str, int]:
    into = _into(rng)
    return into["vrf"], vlan, action, into["policy_class"]


def _segments(rng: random.Random) -> list[TableEntry]:
    made = []
    for ingress_class in (1, 2, 3):
        for prefix in rng.sample(SID_PREFIXES[:-1], 10):
            action = rng.choice(("end", "end_x", "end_dt46", "end_dt46", "drop"))
            params = {
                "end": {},
                "end_x": {"next_hop": rng.choice(HOPS)},
                "end_dt46": {**_into(rng), "answer_class": rng.choice((0, *CLASSES))},
                "drop": {"reason": rng.choice(REASONS)},
            }[action]
            made.append(entries.local_sid(ingress_class, prefix, action, **params))
    return made


def _groups(rng: random.Random) -> list[TableEntry]:
    made = [
        entries.group(side, vrf, prefix, rng.choice(GROUPS))
        for side in ("source", "destination")
        for vrf in VRFS
        for prefix in rng.sample(PREFIXES, 12)
    ]
    for side in ("source", "destination"):
        for priority in _priorities(rng, 8):
            low, high = sorted(rng.choice((0, 1, 53, 442, 443, 444, 1023, 5060, 40000, 65535)) for _ in range(2))
            number = rng.choice((1, 2, 3, 0x102))
            made.append(entries.port_class(side, rng.choice((1, 6, 17)), low, high, number, priority))
    return made


def _policies(rng: random.Random) -> list[TableEntry]:
    choices = {
        "source_group": ((rng.choice(GROUPS), ANY), (1, 1)),
        "destination_group": ((rng.choice(GROUPS), ANY), (2, 6)),
        "l4_class": ((0, 0xE), (1, 0xF), (2, 0xF), (3, 0xF), (4, 0xE), (0, 0xF)),
        "source_port_class": ((1, ANY), (0, ANY)),
        "destination_port_class": ((1, ANY), (2, 0xFFFE), (0x100, 0xFF00)),
    }
    made = []
    for vrf, policy_class in ((vrf, vrf + offset) for vrf in VRFS for offset in (1, OTHER_CLASS)):
        for priority in _priorities(rng, 8):
            chosen = {name: rng.choice(values) for name, values in choices.items() if rng.random() < 0.3}
            action = rng.choice(("permit", "permit", "permit_request", "permit_reply", "drop", "drop_until"))
            value = rng.choice(REASONS if action.startswith("drop") else CLASSES)
            until_s = rng.choice((1, node.FAR_S))
            made.append(entries.policy(vrf, priority, action, value, policy_class, until_s=until_s, **chosen))
        if rng.random() < 0.8:
            made.append(entries.policy(vrf, 1, "permit", rng.choice(CLASSES), policy_class))
    return made


def _ways(rng: random.Random) -> list[TableEntry]:
    made = [entries.live(liveness_group, rng.randrange(256)) for liveness_group in (1, 2)]
    for forwarding_class in CLASSES:
        kind = rng.random()
        if kind < 0.35:
            made.append(_perhaps_translated(rng, entries.deliver(forwarding_class, rng.choice(VRFS))))
        elif kind < 0.95:
            way = entries.encapsulate(
                forwarding_class,
                rng.choice(POLICIES),
                rng.choice((1, 1, 2, 2, 3)),
                rng.choice(SIDS),
                dscp=rng.randrange(64),
                inner_mtu=rng.choice((0, 0, 39, 64, 96, 576, 1300)),
            )
            made.append(_perhaps_translated(rng, way))
        made += _moves(rng, forwarding_class)
        if rng.random() < 0.2:
            made.append(entries.lease(forwarding_class, rng.choice((1, node.FAR_S))))
    for number in POLICIES:
        for slot in rng.sample(range(8), rng.randrange(1, 6)):
            containers = [rng.choice(SIDS) for _ in range(rng.randrange(1, 5))]
            hop, bits = rng.choice(HOPS), rng.choice((0, 16, 32, 48, 64, 80, 7))
            color = rng.randrange(1 << 13)
            made.append(entries.h_encaps(number, slot, node.EDGE, hop, containers, merge_bits=bits, color=color))
    return made


def _perhaps_translated(rng: random.Random, way: TableEntry) -> TableEntry:
    return entries.translated(way) if rng.random() < 0.4 else way


def _moves(rng: random.Random, forwarding_class: int) -> list[TableEntry]:
    made = []
    for side in ("source", "destination"):
        for prefix in rng.sample(PREFIXES[:-1], 4):  # not ::/0: IPv4 is in it, and would become IPv6
            network = ip_network(prefix)
            least = {4: "10.3.0.0", 6: "2001:db8:3::"}[network.version]
            to = ip_network((least, max(network.prefixlen, 8)), strict=False)
            made.append(entries.move(side, forwarding_class, prefix, str(to)))
    return made


def _routes(rng: random.Random) -> list[TableEntry]:
    made = []
    for vrf, prefixes in ((0, SID_PREFIXES), *((vrf, PREFIXES) for vrf in VRFS)):
        for prefix in {*rng.sample(prefixes, 12), "::/0"}:
            if rng.random() < 0.85:
                made.append(entries.route(vrf, prefix, rng.choice(HOPS)))
            else:
                made.append(entries.route_drop(vrf, prefix, rng.choice(REASONS)))
    for port in rng.sample(PORTS, 3):
        host = rng.choice([prefix for prefix in PREFIXES if prefix.endswith(("/32", "/128"))])
        made.append(entries.neighbor(port, host.partition("/")[0], node.host_mac(0x77)))
    for hop in HOPS:
        port, kind = rng.choice((*PORTS, 400)), rng.random()
        vlan = 7 if rng.random() < 0.05 else 0
        if kind < 0.45:
            made.append(entries.forward(hop, port, node.port_mac(port % 256), node.host_mac(port % 256), vlan))
        elif kind < 0.85:
            made.append(entries.resolve(hop, port, node.port_mac(port % 256), vlan))
        elif kind < 0.9:
            made.append(entries.punt_hop(hop, rng.choice(REASONS)))
    return made


SEEDS = tuple({(vector.port, vector.frame): None for vector in VECTORS if vector.port in PORTS})
FRAGMENTED = tuple(vector for vector in fragments.VECTORS if vector.before)
"""Packets of several frames; the last goes the way of all others."""
STATIONS = ("ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01", "01:00:5e:00:00:fb", *map(node.port_mac, PORTS), node.host_mac(2))
MAX_FRAME = 1600
INTERESTING = (0, 1, 2, 3, 4, 6, 8, 17, 20, 28, 40, 41, 43, 44, 58, 59, 60, 63, 64, 127, 128, 254, 255)


def frames(rng: random.Random, count: int) -> list[tuple[int, bytes]]:
    """`count` (port, frame): valid ones of the vectors with up to four things wrong with them; few are all garbage."""
    made: list[tuple[int, bytes]] = []
    while len(made) < count:
        port, frame = rng.choice(SEEDS)
        if rng.random() < 0.05:
            fragmented = rng.choice(FRAGMENTED)
            port, frame = fragmented.port, fragmented.frame
            made += fragmented.before[: count - len(made) - 1]
        data = bytearray(frame)
        if rng.random() < 0.02:
            data = bytearray(rng.randbytes(rng.randrange(14, 200)))
        for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 4))):
            rng.choice(_MUTATIONS)(rng, data)
        if rng.random() < 0.6:
            _right_checksum(data)
        if rng.random() < 0.05:
            port = rng.choice(PORTS)
            _address_to(node.port_mac(port), data)
        data.extend(bytes(14 - len(data)) if len(data) < 14 else b"")
        made.append((port, bytes(data[:MAX_FRAME])))
    return made


def _offset(rng: random.Random, data: bytearray) -> int:
    """Mostly in the headers."""
    end = len(data) if rng.random() < 0.1 else min(len(data), 110)
    return rng.randrange(min(12, end - 1), end)


def _truncate(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(14, max(len(data), 15)) :]


def _extend(rng: random.Random, data: bytearray) -> None:
    data.extend(rng.randbytes(rng.randrange(1, 64)))


def _flip_bit(rng: random.Random, data: bytearray) -> None:
    data[_offset(rng, data)] ^= 1 << rng.randrange(8)


def _set_byte(rng: random.Random, data: bytearray) -> None:
    data[_offset(rng, data)] = rng.choice(INTERESTING) if rng.random() < 0.7 else rng.randrange(256)


def _set_length(rng: random.Random, data: bytearray) -> None:
    """A field that says how long something is, of IPv4, IPv6, SRH or TCP."""
    at = rng.choice((16, 18, 20, 22, 46, 54, 55, 57, 58, 66, 70, 86))
    if at + 2 > len(data):
        return
    length = rng.choice((0, 1, 19, 20, 27, 28, 39, 40, len(data) - 14, len(data) - 54, len(data), 65535))
    data[at : at + 2] = max(length, 0).to_bytes(2)


def _splice(rng: random.Random, data: bytearray) -> None:
    """The rest is another frame's."""
    _, other = rng.choice(SEEDS)
    at = rng.choice((12, 14, 18, 34, 38, 54, 78, 94))
    data[at:] = other[rng.choice((at, 14, 34, 54)) :]
    if len(data) < 14:
        data.extend(bytes(14 - len(data)))


def _set_address(rng: random.Random, data: bytearray) -> None:
    at, size = rng.choice(((26, 4), (30, 4), (22, 16), (38, 16)))
    _, other = rng.choice(SEEDS)
    if at + size <= len(data) and at + size <= len(other):
        data[at : at + size] = other[at : at + size]


def _set_container(rng: random.Random, data: bytearray) -> None:
    """One of the 16-bit SIDs of the destination, or of the first segments, or what is behind them."""
    at = rng.choice((38, 38, 62, 78)) + 2 * rng.randrange(8)
    if at + 2 > len(data):
        return
    data[at : at + 2] = rng.choice((0, 1, 2, 3, 0x10, 0x20, 0x5F00, 0xE001, 0x2001)).to_bytes(2)
    if rng.random() < 0.3:
        data[at + 2 : at + 4] = b"\0\0"[: max(0, len(data) - at - 2)]


def _set_station(rng: random.Random, data: bytearray) -> None:
    _address_to(rng.choice(STATIONS), data)


def _address_to(mac: str, data: bytearray) -> None:
    data[:6] = bytes.fromhex(mac.replace(":", ""))


def _set_fragment(rng: random.Random, data: bytearray) -> None:
    """Place, flags and identification of IPv4 or IPv6, plain or one segment deep."""
    for at, place, identification in (
        (14, 20, 19),
        (14, 56, 61),
        (54, 60, 59),
        (54, 96, 101),
        (78, 84, 83),
        (78, 120, 125),
    ):
        version = data[at] >> 4 if len(data) > max(place + 1, identification) else 0
        if version == 4 and identification < place:
            data[place : place + 2] = _fragment_place(rng, 0, 0x2000).to_bytes(2)
        elif version == 6 and identification > place and data[at + 6] == 44:
            data[place : place + 2] = _fragment_place(rng, 3, 1).to_bytes(2)
        else:
            continue
        if rng.random() < 0.4:
            data[identification] = rng.randrange(12)
        return


def _fragment_place(rng: random.Random, shift: int, flag: int) -> int:
    units = rng.choice((0, 0, 1, 2, 10, 50, 99, 100, 101, 125, 126, 8191))
    return units << shift | (flag if rng.random() < 0.7 else 0)


def _tag(rng: random.Random, data: bytearray) -> None:
    data[12:12] = b"\x81\x00" + rng.choice((0, node.VLAN, node.VLAN, 0xE000 | node.VLAN, 5)).to_bytes(2)


def _insert_extension(rng: random.Random, data: bytearray) -> None:
    """An extension header more before the upper layer, of IPv6, plain or one segment deep."""
    for at in (14, 54, 78):
        if len(data) < at + 48 or data[at] >> 4 != 6 or data[at + 6] == 43:
            continue
        kind = rng.choice((0, 43, 44, 50, 51, 60, 60, 60, 135, 139, 140, 200, 253))
        units = rng.choice((0, 0, 0, 1, 5, 20, 25, 255))
        place = _fragment_place(rng, 3, 1) if kind == 44 and rng.random() < 0.5 else 0
        header = bytes([data[at + 6], units, *place.to_bytes(2), *bytes(4)])
        if units < 26:
            header += bytes(max(0, 4 * units if kind == 51 else 0 if kind == 44 else 8 * units))
        data[at + 6] = kind
        data[at + 40 : at + 40] = header
        for length in (18, at + 4) if at > 14 else (18,):
            data[length : length + 2] = min(int.from_bytes(data[length : length + 2]) + len(header), 0xFFFF).to_bytes(2)
        return


_MUTATIONS = (
    _insert_extension,
    _insert_extension,
    _truncate,
    _extend,
    _flip_bit,
    _flip_bit,
    _set_byte,
    _set_byte,
    _set_length,
    _splice,
    _set_address,
    _set_container,
    _set_container,
    _set_station,
    _set_fragment,
    _tag,
)


def _right_checksum(data: bytearray) -> None:
    """Of an IPv4 header, wherever it seems to begin, so that what is behind the check is reached too."""
    for start in (14, 18, 54, 62, 62 + 16, 62 + 32, 62 + 48):
        if len(data) >= start + 20 and data[start] == 0x45:
            data[start + 10 : start + 12] = b"\0\0"
            data[start + 10 : start + 12] = checksum(bytes(data[start : start + 20])).to_bytes(2)
            return
