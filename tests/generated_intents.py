"""Inventories, intents and packets drawn from a seed: small, and full of overlaps."""

import random

from controller.fulfillment.aliases import moved
from controller.fulfillment.meaning import Packet
from controller.fulfillment.numbering import address, address_text
from controller.model.intent import Allow, Intent, Ports, Require, Selector, Trust
from controller.model.inventory import Attachment, Domain, Inventory, Link, LinkEnd, Network, Node, Service
from dataplane.reasons import L4Class

EDGES = ("e1", "e2", "e3")
TRANSIT = ("t1", "t2")
"""Every edge is linked to t1, and most to t2; now and then two links join e1 and e2."""
PORTS = (
    (),
    (Ports(protocol="icmp"),),
    (Ports(protocol="tcp"),),
    (Ports(protocol="udp"),),
    (Ports(protocol="tcp", first=443, last=443),),
    (Ports(protocol="tcp", first=400, last=450), Ports(protocol="icmp")),
    (Ports(protocol="tcp", first=440, last=8080), Ports(protocol="udp", first=53, last=53)),
    (Ports(protocol="udp", first=50, last=60),),
)
POINTS = (53, 55, 443, 445, 8080, 40000)
FAR = {
    "far/m0": ("10.200.0.0", "10.200.0.1", "10.0.0.0"),
    "far/m1": ("10.200.0.0", "10.200.0.1"),
    "far/m2": ("172.16.0.0", "172.16.0.1"),
}
NOWHERE = ("192.0.2.1", "2001:db8::1")


POOL = ("10.64.0.0/12", "2001:db8:6400::/40")
"""Where networks know others that have the same addresses."""


def inventory(chance: random.Random, *, far: bool = True, pool: bool = False) -> Inventory:
    networks, services = {}, {}
    port = 10
    for index in range(3):
        block = chance.choice((1, 1, index + 1))  # now and then the same addresses
        attachments = []
        for host in range(chance.randint(1, 4)):
            port += 1
            addresses = (f"10.{block}.0.{10 + host}",)
            if chance.random() < 0.5:
                addresses += (f"2001:db8:{block}::{10 + host}",)
            attachments.append(
                Attachment(
                    name=f"h{index}{host}",
                    node=chance.choice(EDGES),
                    port=port,
                    addresses=addresses,
                    labels=(("app", chance.choice("ab")), ("tier", chance.choice("xy"))),
                )
            )
        name = f"shop/n{index}"
        wide = chance.random() < 0.3  # so that what is in other networks may be on its link
        prefixes = ("10.0.0.0/8", "2001:db8::/32") if wide else (f"10.{block}.0.0/24", f"2001:db8:{block}::/64")
        networks[name] = Network(name=name, prefixes=prefixes, attachments=tuple(attachments))
        attachment = chance.choice(attachments)
        offered = chance.choice(PORTS[1:])
        services[f"{name}/s"] = Service(name=f"{name}/s", addresses=attachment.addresses, ports=offered)
    if far:
        for name, prefix, address in (
            ("far/m0", "10.0.0.0/8", "10.200.0.1"),
            ("far/m1", "10.200.0.0/16", "10.200.0.1"),
            ("far/m2", "172.16.0.0/12", "172.16.0.1"),
        ):
            networks[name] = Network(name=name, prefixes=(prefix,))
            services[f"{name}/s"] = Service(name=f"{name}/s", addresses=(address,), ports=chance.choice(PORTS[1:]))
    made: list[Link] = []
    for index, edge in enumerate(EDGES, 1):
        for side, transit in enumerate(TRANSIT):
            if side == 0 or chance.random() < 0.7:
                made.append(_link(chance, (edge, 1 + side), (transit, index)))
    if chance.random() < 0.3:
        made += [_link(chance, ("e1", port), ("e2", port)) for port in (3, 4)]
    return Inventory(
        domains={
            "shop": Domain(name="shop", sid_block="5f00:1::/32", own=True, translation_pool=POOL if pool else ()),
            "far": Domain(name="far", sid_block="5f00:2::/32"),
        },
        networks=networks,
        services=services,
        nodes={
            name: Node(
                name=name,
                role="edge" if name in EDGES else "transit",
                locator=f"5f00:1:{index}::/48",
                agent=f"unix:/{name}",
            )
            for index, name in enumerate((*EDGES, *TRANSIT), 1)
        },
        links={link.name: link for link in made},
    )


def _link(chance: random.Random, a: tuple[str, int], b: tuple[str, int]) -> Link:
    """Between two (node, port)."""
    return Link(
        name=f"{a[0]}-{b[0]}-{a[1]}",
        a=LinkEnd(node=a[0], port=a[1]),
        b=LinkEnd(node=b[0], port=b[1]),
        delay_us=chance.choice((100, 200)),
        rate_bps=10**9,
        loss_percent=0.0,
        mtu=2000,
    )


def selector(chance: random.Random) -> Selector:
    network = f"shop/n{chance.randrange(3)}"
    labels: dict[str, str] = {}
    if chance.random() < 0.6:
        labels["app"] = chance.choice("ab")
    if chance.random() < 0.3:
        labels["tier"] = chance.choice("xy")
    prefixes = (f"10.{chance.randint(1, 3)}.0.8/30",) if chance.random() < 0.1 else ()
    return Selector(network=network, labels=tuple(sorted(labels.items())), prefixes=prefixes)


def intent(chance: random.Random, name: str, known: Inventory, others: tuple[str, ...] = ()) -> Intent:
    isolate = selector(chance) if chance.random() < 0.4 else None
    allows = []
    for _ in range(chance.randint(0 if isolate is not None else 1, 2)):
        to = chance.choice([*known.networks, *known.services])
        source = selector(chance) if isolate is None or chance.random() < 0.3 else None
        offered = known.services[to].ports if to in known.services else ()
        ports: tuple[Ports, ...] = chance.choice(((), offered[:1])) if offered else chance.choice(PORTS)
        allows.append(Allow(to=to, ports=ports, source=source))
    return Intent(
        name=name,
        tenant=chance.choice(("red", "red", "blue")),
        isolate=isolate,
        allow=tuple(allows),
        require=Require(trust_min=Trust.OWN) if chance.random() < 0.3 else Require(),
        priority=chance.choice((100, 100, 200)),
        overrides=tuple(other for other in others if chance.random() < 0.2),
        suspends=tuple(other for other in others if isolate is not None and not allows and chance.random() < 0.3),
    )


def addresses(known: Inventory) -> list[str]:
    texts = {text for network in known.networks.values() for host in network.attachments for text in host.addresses}
    texts |= {text for service in known.services.values() for text in service.addresses}
    texts |= {
        address_text(moved(address(text), aliases.pairs))
        for aliases in known.aliases.values()
        for host in known.networks[aliases.other].attachments
        for text in host.addresses
    }
    return sorted(texts | {*(text for prefixes in FAR.values() for text in prefixes), *NOWHERE})


def contents() -> list[tuple[L4Class, int, int]]:
    """L4 class, source and destination port."""
    kinds = [
        (l4_class, 0, 0) for l4_class in (L4Class.ECHO_REQUEST, L4Class.ECHO_REPLY, L4Class.OTHER, L4Class.UNCLASSIFIED)
    ]
    for l4_class in (L4Class.TCP_OPEN, L4Class.TCP, L4Class.UDP, L4Class.ICMP_ERROR):
        kinds += [(l4_class, 40000, port) for port in POINTS]
        kinds += [(l4_class, port, 40000) for port in POINTS[:-1]]
    return kinds


def universe(known: Inventory) -> list[Packet]:
    """Everything that can make a difference, from hosts of ours and from those of others."""
    there = addresses(known)
    packets = []
    for name, network in known.networks.items():
        sources = [text for host in network.attachments for text in host.addresses]
        sources += FAR.get(name, ())
        for source in sources:
            for destination in there:
                if source == destination or (":" in source) != (":" in destination):
                    continue
                packets += [
                    Packet(
                        network=name,
                        source=source,
                        destination=destination,
                        l4_class=kind,
                        source_port=source_port,
                        destination_port=port,
                    )
                    for kind, source_port, port in contents()
                ]
    return packets
