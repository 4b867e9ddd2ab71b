"""What intents mean, packet by packet: the reference that compiled entries and conflicts are tested against.

1. A packet comes from a network, from an address that is in it.
2. An intent carries what one of its `allow` clauses names, from its sources to its destination, and the replies.
3. `isolate` separates the hosts that it selects from all others, not from each other. Only what the same intent
   carries goes through, or what an intent of the same tenant carries that names it in `overrides`, or that it names
   in `suspends`. Where it suspends intents, whatever the hosts send is dropped, whoever allows it.
4. Of the intents that carry a packet the higher priority, then the older, owns it.
5. What nobody carries or separates is permitted inside one network, and denied between networks.
6. A network that knows another under other addresses (`Inventory.aliases`) sends to these, and hears from these.

This is one domain's say. Across domains every domain that has a say must permit a packet: those where other domains'
intents carry it, by agreements, which go through nobody's isolation (`reconcile/peer_admission.py`).
"""

from collections.abc import Iterable, Sequence

import msgspec

from controller.fulfillment.aliases import NOBODYS, Views, known_to, meant, moved
from controller.fulfillment.numbering import address, prefix
from controller.fulfillment.numbering import address_text as text
from controller.model.intent import Allow, Intent, Ports, Selector, Value
from controller.model.inventory import Inventory, Network
from dataplane.reasons import L4Class

Endpoint = tuple[str, int]
"""Network and address."""
Range = tuple[str, int, int]
"""Network, first and last address."""


class Packet(Value, frozen=True, kw_only=True):
    """As it comes from a host, in either direction of a conversation.

    An ICMP error is judged as a packet of the flow that it is about, in its own direction. Here that is TCP: the ports
    are those such a packet would have.
    """

    network: str
    """Where it comes from."""
    source: str
    destination: str
    l4_class: L4Class
    source_port: int = 0
    destination_port: int = 0

    def __str__(self) -> str:
        ends = [self.source, self.destination]
        if self.l4_class in (L4Class.TCP_OPEN, L4Class.TCP, L4Class.UDP, L4Class.ICMP_ERROR):
            ends = [f"{self.source} port {self.source_port}", f"{self.destination} port {self.destination_port}"]
        return f"{_WORDS[self.l4_class]} {ends[0]} ({self.network}) -> {ends[1]}"


_WORDS = {
    L4Class.TCP_OPEN: "tcp (opening)",
    L4Class.TCP: "tcp",
    L4Class.UDP: "udp",
    L4Class.ICMP_ERROR: "icmp error about tcp",
    L4Class.ECHO_REQUEST: "icmp echo request",
    L4Class.ECHO_REPLY: "icmp echo reply",
    L4Class.OTHER: "ip",
    L4Class.UNCLASSIFIED: "ip that cannot be classified",
}


class Decision(Value, frozen=True, kw_only=True):
    allowed: bool
    because: str
    """In words."""
    owner: str = ""
    """`intents/NAME` that owns or separates it, `networks/NAME` where the default permits it."""
    clause: int = -1
    """Index of the `allow` of the owner."""
    to: str = ""
    """The network where it goes, if it is allowed."""
    reply: bool = False
    """To what that clause allows."""
    source: str = ""
    """As the network where it goes knows it, and so is the destination; empty: it is not allowed."""
    destination: str = ""


class Clause(msgspec.Struct, frozen=True, kw_only=True):
    """One `allow`, its names replaced by what they stand for."""

    index: int
    sources: frozenset[Endpoint]
    destinations: tuple[Range, ...]
    ports: tuple[Ports, ...]
    views: Views = NOBODYS
    """How the two networks know each other."""


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """An intent, its names replaced by what they stand for."""

    intent: Intent
    isolated: frozenset[Endpoint]
    clauses: tuple[Clause, ...]


class Meaning:
    """Of several intents together, oldest first, all of them in force."""

    def __init__(self, intents: Sequence[Intent], inventory: Inventory) -> None:
        self._inventory = inventory
        self._resolved = [resolve(intent, inventory) for intent in intents]
        self._ranked = sorted(
            self._resolved, key=lambda resolved: -resolved.intent.priority
        )  # stable: the older stays first
        self._inside = {
            name: frozenset(_hosts(network)) if _is_own(name, inventory) else None
            for name, network in inventory.networks.items()
        }

    def of(self, packet: Packet) -> Decision:
        source, destination = address(packet.source), address(packet.destination)
        if not self._admitted(packet.network, source):
            return Decision(allowed=False, because=f"{packet.source} is not in {packet.network}")
        carriers = [
            (resolved.intent, *carried)
            for resolved in self._ranked
            if (carried := _carried(resolved, packet, source, destination)) is not None
        ]
        blocked = ""
        for intent, clause, to, reply in carriers:
            blocked = self.separating((packet.network, source), to, intent)
            if not blocked:
                because = f"intent {intent.name} allows it{' as a reply' if reply else ''} (allow {clause.index + 1})"
                return Decision(
                    allowed=True,
                    because=because,
                    owner=f"intents/{intent.name}",
                    clause=clause.index,
                    to=to[0],
                    reply=reply,
                    source=text(moved(source, clause.views.destination if reply else clause.views.source)),
                    destination=text(to[1]),
                )
        blocked = blocked or self.separating((packet.network, source), (packet.network, destination), None)
        if blocked:
            because = f"intent {blocked} isolates an end of it"
            if carriers:
                because += f", and intent {carriers[-1][0].name} does not override that"
            return Decision(allowed=False, because=because, owner=f"intents/{blocked}")
        hosts = self._inside.get(packet.network)
        if hosts is not None and (packet.network, destination) in hosts:
            because = f"both are in {packet.network}"
            return Decision(
                allowed=True,
                because=because,
                owner=f"networks/{packet.network}",
                to=packet.network,
                source=packet.source,
                destination=packet.destination,
            )
        return Decision(allowed=False, because=f"no intent allows it out of {packet.network}")

    def views_of(self, decision: Decision) -> Views:
        """How the networks know each other of whose packets it was."""
        name = decision.owner.removeprefix("intents/")
        clauses = (clause for each in self._resolved if each.intent.name == name for clause in each.clauses)
        return next((clause.views for clause in clauses if clause.index == decision.clause), Views())

    def _admitted(self, network: str, source: int) -> bool:
        if network not in self._inside:
            return False
        hosts = self._inside[network]
        if hosts is not None:
            return (network, source) in hosts
        return _within((network, source), _ranges(self._inventory.networks[network]))

    def separating(self, source: Endpoint, destination: Endpoint, carrier: Intent | None) -> str:
        """Whose isolate keeps the two apart, and may not be broken by `carrier` (None: by nobody); empty: nobody's."""
        for resolved in self._resolved:
            if resolved.intent.suspends and source in resolved.isolated:
                return resolved.intent.name
            apart = (source in resolved.isolated) != (destination in resolved.isolated)
            if apart and not (carrier is not None and may_break(carrier, resolved.intent)):
                return resolved.intent.name
        return ""


def permitted(intents: Sequence[Intent], inventory: Inventory, packet: Packet) -> Decision:
    """Whether `intents` (oldest first, all in force) let `packet` through, and why."""
    return Meaning(intents, inventory).of(packet)


def may_break(carrier: Intent, isolating: Intent) -> bool:
    """Whether what `carrier` allows goes through what `isolating` isolates."""
    own = carrier.name == isolating.name
    named = isolating.name in carrier.overrides or carrier.name in isolating.suspends
    return own or (carrier.tenant == isolating.tenant and named)


def is_suspended(carrier: Intent, isolating: Intent) -> bool:
    """Whether what `isolating` drops of what `carrier` allows is meant to be dropped."""
    return carrier.tenant == isolating.tenant and carrier.name in isolating.suspends


def resolve(intent: Intent, inventory: Inventory) -> Resolved:
    """Names that are not in the inventory stand for nothing."""
    isolated = select(intent.isolate, inventory) if intent.isolate is not None else frozenset()
    clauses = []
    for index, allow in enumerate(intent.allow):
        selector = allow.source or intent.isolate
        sources = select(selector, inventory) if selector is not None else frozenset()
        destinations, ports = target(allow, inventory)
        ends = (selector.network if selector is not None else "", "/".join(allow.to.split("/")[:2]))
        views = Views(known_to(inventory, ends[1], ends[0]), known_to(inventory, *ends))
        clauses.append(Clause(index=index, sources=sources, destinations=destinations, ports=ports, views=views))
    return Resolved(intent=intent, isolated=isolated, clauses=tuple(clauses))


def select(selector: Selector, inventory: Inventory) -> frozenset[Endpoint]:
    """Addresses of the hosts that a selector means."""
    network = inventory.networks.get(selector.network)
    if network is None:
        return frozenset()
    wanted = set(selector.labels)
    inside = [(network.name, value, _last(value, length)) for value, length in map(prefix, selector.prefixes)]
    endpoints = {
        (network.name, address(text))
        for host in network.attachments
        if wanted <= {*network.labels, *host.labels}
        for text in host.addresses
    }
    return frozenset(endpoint for endpoint in endpoints if not inside or _within(endpoint, inside))


def target(allow: Allow, inventory: Inventory) -> tuple[tuple[Range, ...], tuple[Ports, ...]]:
    """Where a clause leads to, and which ports it means (none: everything)."""
    name = "/".join(allow.to.split("/")[:2])
    network = inventory.networks.get(name)
    service = inventory.services.get(allow.to)
    if network is None:
        return (), allow.ports
    if service is None:
        ranges, ports = _ranges(network), allow.ports
    else:
        ranges = tuple((name, address(text), address(text)) for text in service.addresses)
        ports = allow.ports or service.ports
    if _is_own(name, inventory):
        ranges = tuple(
            (name, host, host) for _, host in sorted(_hosts(network)) if _within((name, host), ranges)
        )  # there is nobody else
    return ranges, ports


def _carried(resolved: Resolved, packet: Packet, source: int, destination: int) -> tuple[Clause, Endpoint, bool] | None:
    """Clause, where it leads to, and whether as a reply."""
    for follows, reply in ((requests, False), (replies, True)):
        for clause in resolved.clauses:
            to = follows(clause, packet.network, source, destination, packet)
            if to is not None:
                return clause, to, reply
    return None


def requests(clause: Clause, network: str, source: int, destination: int, packet: Packet) -> Endpoint | None:
    """Where a clause lets a packet go, which has the addresses that its sender knows; None: it says nothing of it."""
    if (network, source) in clause.sources and is_request(clause.ports, packet):
        host = meant(destination, clause.views.destination)
        for name, first, last in clause.destinations:
            if host is not None and first <= host <= last:
                return name, host
    return None


def replies(clause: Clause, network: str, source: int, destination: int, packet: Packet) -> Endpoint | None:
    """As `requests`, for what comes back."""
    if _within((network, source), clause.destinations) and is_reply(clause.ports, packet):
        host = meant(destination, clause.views.source)
        for name, known in clause.sources:
            if known == host:
                return name, known
    return None


def is_request(ports: tuple[Ports, ...], packet: Packet) -> bool:
    return not ports or any(
        _fits(port, packet, packet.destination_port, L4Class.ECHO_REQUEST, opens=True) for port in ports
    )


def is_reply(ports: tuple[Ports, ...], packet: Packet) -> bool:
    """Never opens a TCP connection, nor asks for an echo."""
    if not ports:
        return packet.l4_class not in (L4Class.TCP_OPEN, L4Class.ECHO_REQUEST, L4Class.UNCLASSIFIED)
    return any(_fits(port, packet, packet.source_port, L4Class.ECHO_REPLY, opens=False) for port in ports)


def _fits(ports: Ports, packet: Packet, port: int, echo: L4Class, *, opens: bool) -> bool:
    match ports.protocol:
        case "icmp":
            return packet.l4_class == echo
        case "tcp":
            classes = (L4Class.TCP, L4Class.ICMP_ERROR, *((L4Class.TCP_OPEN,) if opens else ()))
        case _:
            classes = (L4Class.UDP,)
    return packet.l4_class in classes and ports.first <= port <= ports.last


def _within(endpoint: Endpoint, ranges: Iterable[Range]) -> bool:
    return any(name == endpoint[0] and first <= endpoint[1] <= last for name, first, last in ranges)


def _hosts(network: Network) -> set[Endpoint]:
    return {(network.name, address(text)) for host in network.attachments for text in host.addresses}


def _ranges(network: Network) -> tuple[Range, ...]:
    return tuple((network.name, value, _last(value, length)) for value, length in map(prefix, network.prefixes))


def _last(value: int, length: int) -> int:
    return value | ((1 << (128 - length)) - 1)


def _is_own(network: str, inventory: Inventory) -> bool:
    domain = inventory.domains.get(network.split("/")[0])
    return domain is not None and domain.own
