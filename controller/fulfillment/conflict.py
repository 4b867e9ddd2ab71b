"""Where two intents say different things about the same packets.

    contradiction   what one allows, the other isolates; or one address would be in two networks. Refused.
    shadowing       both allow the same packets, under different terms: those of the owner hold, as long as it carries
                    them; what is not Active owns nothing. Accepted, warned.
    redundancy      both say the same of the same packets. Noted.

By set reasoning over addresses, ports and time, never by comparing names; each finding shows a packet. For
shadowing and redundancy requests count: replies follow them.
"""

import enum
import itertools
from collections.abc import Iterator, Sequence

import msgspec

from controller.fulfillment.aliases import NO_POOL, moved, pool_of
from controller.fulfillment.conflict_index import (
    Claim,
    Destination,
    Index,
    Path,
    Places,
    Selection,
)
from controller.fulfillment.meaning import Packet, is_suspended, may_break
from controller.fulfillment.numbering import address_text as text
from controller.fulfillment.prefix_map import Prefix, common, last
from controller.model.intent import Intent, Ports, Remediation
from dataplane.reasons import L4Class

SOURCE_PORT = 49152
"""Of packets that are shown (RFC 6335 §6: the first dynamic one)."""
NOWHERE = {4: "192.0.2.1", 6: "2001:db8::1"}
"""RFC 5737, RFC 3849: outside of what is isolated."""

_CLASSES = {"tcp": L4Class.TCP_OPEN, "udp": L4Class.UDP}
_REPLIES = {"tcp": L4Class.TCP, "udp": L4Class.UDP, "icmp": L4Class.ECHO_REPLY}
End = tuple[str, int]
"""Network and address."""
Sent = tuple[End, End, L4Class, int, int]
"""Source, destination, class, source and destination port."""


class Kind(enum.StrEnum):
    CONTRADICTION = "contradiction"
    SHADOWING = "shadowing"
    REDUNDANCY = "redundancy"


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    kind: Kind
    intents: tuple[str, str]
    """Contradiction: who isolates, who connects. Shadowing and redundancy: who owns the packets, who does not."""
    clauses: tuple[str, str]
    packet: Packet
    reason: str

    def __str__(self) -> str:
        (first, other), (clause, other_clause) = self.intents, self.clauses
        return (
            f"{self.kind}: intent {first} ({clause}) and intent {other} ({other_clause}): {self.reason}: {self.packet}"
        )


def against(claim: Claim, index: Index, places: Places, *, sharing: bool = True) -> list[Conflict]:
    """All conflicts of one intent with those in `index`; without `sharing` all contradictions, and what comes with
    them."""
    conflicts = []
    for earlier in index.touching(claim, sharing=sharing):
        conflicts += between(claim, earlier, places)
    return conflicts


def between(mine: Claim, other: Claim, places: Places) -> list[Conflict]:
    """All conflicts of two intents, one for each pair of clauses and kind."""
    if max(mine.start_s, other.start_s) >= min(mine.end_s, other.end_s):
        return []
    mine, other = sorted((mine, other), key=lambda claim: (claim.serial, claim.intent.name))
    conflicts: list[Conflict] = []
    for path in mine.paths:
        for there in other.paths:
            conflicts += _ambiguous(mine, path, other, there, places)
    if conflicts:
        return conflicts  # where an address means two hosts nothing else can be said
    conflicts += [*_broken(mine, other, places), *_broken(other, mine, places)]
    if mine.isolated is not None and other.isolated is not None:
        conflicts += _both_isolate(mine, mine.isolated, other, other.isolated)
    first, second = sorted((mine, other), key=lambda claim: (-claim.intent.priority, claim.serial, claim.intent.name))
    for path in first.paths:
        for there in second.paths:
            packet = _both_carry(path, there, places)
            if packet is not None:
                conflicts.append(_covering(first, path, second, there, packet))
    return conflicts


def misfit(claim: Claim, places: Places) -> str:
    """Why an intent does not fit the networks it connects; empty: it does."""
    for path in claim.paths:
        source, destination = path.source, path.destination
        if destination.network == source.network:
            continue
        shared = next(places.within(source.network, path.seen), None)
        if destination.own and shared is None:
            shared = next(places.within(destination.network, ((address, 128) for address in path.seen_sources)), None)
            # the edge answers for the gateway itself, so replies would end there
            shared = shared or next(iter(places.gateways(destination.network) & path.seen_sources), None)
        if shared is not None:
            where = f"{source.network} and in {destination.network}"
            hint = NO_POOL.format(source.network.split("/")[0])
            return f"{_clause(path)}: {text(shared)} is in {where}; {hint}"
    for path, there in itertools.combinations(claim.paths, 2):
        for ambiguity in _ambiguous(claim, path, claim, there, places):
            return f"{ambiguity.clauses[0]} and {ambiguity.clauses[1]}: {ambiguity.reason}"
    return ""


def _broken(isolating: Claim, carrying: Claim, places: Places) -> Iterator[Conflict]:
    """What one isolates, and the other connects to somebody else: even where the one does so too, on its own terms. One
    that suspends intents drops whatever its hosts send, so that it is in the way of all that it does not name."""
    isolated, breaks = isolating.isolated, may_break(carrying.intent, isolating.intent)
    if isolated is None or is_suspended(carrying.intent, isolating.intent):
        return
    if breaks and not isolating.intent.suspends:
        return
    for path in carrying.paths:
        packet = next(_crossing(path, isolating, isolated, places, breaks=breaks), None)
        if packet is not None:
            yield Conflict(
                kind=Kind.CONTRADICTION,
                intents=(isolating.intent.name, carrying.intent.name),
                clauses=("isolate", _clause(path)),
                packet=packet,
                reason="the one isolates an end of what the other allows",
            )


def _crossing(path: Path, isolating: Claim, isolated: Selection, places: Places, *, breaks: bool) -> Iterator[Packet]:
    """Requests of a path with exactly one end isolated, if it does not break that; and, of who suspends intents, all
    that is sent by who is isolated."""
    source, destination = path.source, path.destination
    here, there = source.network == isolated.network, destination.network == isolated.network
    leaving = here and not source.addresses.isdisjoint(isolated.addresses)
    if not leaving and not (there and any(_leads_to(destination, address) for address in isolated.addresses)):
        return
    sources = sorts(source.network, sorted(source.addresses), [isolating])
    silenced = source.addresses & isolated.addresses if here and isolating.intent.suspends else ()
    sources += _two_of_each_family(sorted(silenced))
    if destination.own:
        hosts = sorted(places.within(destination.network, destination.prefixes))
        destinations = sorts(destination.network, hosts, [isolating])
        destinations += _two_of_each_family(hosts) if silenced else []
    else:
        destinations = pieces(destination, [isolating])
    contents = sorts_of_requests(path.ports, [isolating])
    for address in sources:
        for other in destinations:
            is_itself = (source.network, address) == (destination.network, other)
            if is_itself or is_ipv4(address) != is_ipv4(other):
                continue
            sends, answers = here and address in isolated.addresses, there and other in isolated.addresses
            if (sends != answers and not breaks) or (sends and isolating.intent.suspends):
                ends = (source.network, address), (destination.network, moved(other, path.views.destination))
                yield from (packet_of(*ends, kind, SOURCE_PORT, port) for kind, port in contents)
            elif answers and isolating.intent.suspends:
                yield _reply(path, other, moved(address, path.views.source), _some_ports(path.ports))


def _two_of_each_family(addresses: list[int]) -> list[int]:
    """So that each has somebody else to send to."""
    of_ipv4 = [address for address in addresses if is_ipv4(address)]
    of_ipv6 = [address for address in addresses if not is_ipv4(address)]
    return of_ipv4[:2] + of_ipv6[:2]


def sorts(network: str, addresses: list[int], claims: Sequence[Claim]) -> list[int]:
    """The first of all addresses that `claims` say the same of."""
    by_sort: dict[tuple[bool, ...], int] = {}
    for address in addresses:
        sort = [is_ipv4(address)]
        for claim in claims:
            isolated = claim.isolated
            sort.append(isolated is not None and isolated.network == network and address in isolated.addresses)
            for path in claim.paths:
                sort.append(path.source.network == network and address in path.source.addresses)
                sort.append(path.destination.network == network and _leads_to(path.destination, address))
        by_sort.setdefault(tuple(sort), address)
    return list(by_sort.values())


def pieces(destination: Destination, claims: Sequence[Claim]) -> list[int]:
    """The first address of each part of a destination that `claims` say the same of."""
    starts = {value for value, _ in destination.prefixes}
    for path in (path for claim in claims for path in claim.paths):
        for value, length in path.destination.prefixes:
            starts |= {value, last(value, length) + 1}
    return sorted(start for start in starts if _leads_to(destination, start))


def sorts_of_requests(ports: tuple[Ports, ...], claims: Sequence[Claim]) -> list[tuple[L4Class, int]]:
    """L4 class and destination port, one of each sort that `claims` may tell apart."""
    requests: list[tuple[L4Class, int]] = []
    cuts = {
        start
        for claim in claims
        for path in claim.paths
        for ports_ in path.ports
        for start in (ports_.first, ports_.last + 1)
    }
    for wanted in ports or (Ports(protocol="tcp"), Ports(protocol="udp"), Ports(protocol="icmp")):
        if wanted.protocol == "icmp":
            requests.append((L4Class.ECHO_REQUEST, 0))
            continue
        starts = sorted(cuts | ({wanted.first} if ports else {443, wanted.first}), key=lambda port: (port != 443, port))
        requests += [(_CLASSES[wanted.protocol], port) for port in starts if wanted.first <= port <= wanted.last]
    return requests if ports else [*requests, (L4Class.OTHER, 0)]


def packet_of(source: End, destination: End, kind: L4Class, source_port: int, port: int) -> Packet:
    ported = kind in (L4Class.TCP_OPEN, L4Class.UDP)
    return Packet(
        network=source[0],
        source=text(source[1]),
        destination=text(destination[1]),
        l4_class=kind,
        source_port=source_port if ported else 0,
        destination_port=port if ported else 0,
    )


def _leads_to(destination: Destination, value: int) -> bool:
    return any(first <= value <= last(first, length) for first, length in destination.prefixes)


def _ambiguous(claim: Claim, path: Path, other: Claim, there: Path, places: Places) -> Iterator[Conflict]:
    """From one network to one address that is in two others."""
    if path.source.network == there.source.network and path.destination.network == there.destination.network:
        return
    for network, mine, peer in _sends(path, places):
        for network_too, theirs, peer_too in _sends(there, places):
            if network != network_too or peer == peer_too:
                continue
            met = next((met for a in mine for b in theirs if (met := common(a, b)) is not None), None)
            if met is not None:
                yield _two_places(claim, path, other, there, met, (peer, peer_too), places)
                return


def _sends(path: Path, places: Places) -> Iterator[tuple[str, list[Prefix], str]]:
    """(from, to, in which network), for requests and replies."""
    source, destination = path.source, path.destination
    prefixes = list(path.seen)
    if destination.own:
        hosts = places.within(destination.network, destination.prefixes)
        prefixes = [(moved(address, path.views.destination), 128) for address in hosts]
    families = {is_ipv4(address) for address in source.addresses}
    yield source.network, [prefix for prefix in prefixes if is_ipv4(prefix[0]) in families], destination.network
    if not destination.own and pool_of(places.inventory):
        return  # that domain can know them under others, and refuses them else
    families = {is_ipv4(address) for address, _ in prefixes}
    yield (
        destination.network,
        [(address, 128) for address in path.seen_sources if is_ipv4(address) in families],
        source.network,
    )


def _two_places(
    mine: Claim, path: Path, other: Claim, there: Path, met: Prefix, peers: tuple[str, str], places: Places
) -> Conflict:
    forward = path.destination.network == peers[0]
    if forward:
        source = _of_family(path.source.addresses, met[0]) or min(path.source.addresses)
        packet = _request(path, source, met[0], _some_ports(path.ports))
    else:
        target = _some_address(path.destination, places, like=met[0])
        packet = _reply(path, target, met[0], _some_ports(path.ports))
    return Conflict(
        kind=Kind.CONTRADICTION,
        intents=(mine.intent.name, other.intent.name),
        clauses=(_clause(path), _clause(there)),
        packet=packet,
        reason=f"{text(met[0])} is in {peers[0]} and in {peers[1]}, and the other end could not tell them apart",
    )


def _some_address(destination: Destination, places: Places, *, like: int) -> int:
    """Of the family of `like`."""
    addresses = (
        places.within(destination.network, destination.prefixes)
        if destination.own
        else iter(value for value, _ in destination.prefixes)
    )
    return next(address for address in addresses if is_ipv4(address) == is_ipv4(like))


def _of_family(addresses: frozenset[int], like: int) -> int | None:
    return min((address for address in addresses if is_ipv4(address) == is_ipv4(like)), default=None)


def _both_isolate(claim: Claim, mine: Selection, other: Claim, theirs: Selection) -> Iterator[Conflict]:
    if mine.network != theirs.network:
        return
    both = mine.addresses & theirs.addresses
    if both:
        value = min(both)
        packet = Packet(
            network=mine.network,
            source=text(value),
            destination=NOWHERE[4 if is_ipv4(value) else 6],
            l4_class=L4Class.OTHER,
        )
        first, second = sorted((claim, other), key=lambda claim: (claim.serial, claim.intent.name))
        yield Conflict(
            kind=Kind.REDUNDANCY,
            intents=(first.intent.name, second.intent.name),
            clauses=("isolate", "isolate"),
            packet=packet,
            reason=f"both isolate {len(both)} of the same addresses",
        )


def _both_carry(path: Path, there: Path, places: Places) -> Packet | None:
    """A request that both paths carry."""
    if path.source.network != there.source.network or path.destination.network != there.destination.network:
        return None
    ports = _common_ports(path.ports, there.ports)
    if ports is None or path.source.addresses.isdisjoint(there.source.addresses):
        return None
    sources = path.source.addresses & there.source.addresses
    for mine in path.destination.prefixes:
        for theirs in there.destination.prefixes:
            met = common(mine, theirs)
            if met is None:
                continue
            targets = itertools.islice(places.within(path.destination.network, [met]), 2)
            for target in targets if path.destination.own else (met[0],):
                source = _of_family(sources - {target}, target)  # what a host sends to itself does not count
                if source is not None:
                    return _request(path, source, moved(target, path.views.destination), ports)
    return None


def _covering(owner: Claim, path: Path, other: Claim, there: Path, packet: Packet) -> Conflict:
    same = terms(owner.intent) == terms(other.intent)
    return Conflict(
        kind=Kind.REDUNDANCY if same else Kind.SHADOWING,
        intents=(owner.intent.name, other.intent.name),
        clauses=(_clause(path), _clause(there)),
        packet=packet,
        reason="both allow the same under the same terms"
        if same
        else f"both allow the same under different terms; while {owner.intent.name} is Active it owns it, and only its "
        "terms hold",
    )


def terms(intent: Intent) -> Intent:
    """What an intent demands for what it allows."""
    return msgspec.structs.replace(
        intent,
        name="",
        tenant="",
        isolate=None,
        allow=(),
        priority=0,
        lease_s=None,
        lease_until_s=None,
        overrides=(),
        suspends=(),
        remediation=Remediation.PROPOSE,
        tests=(),
    )


def _common_ports(mine: tuple[Ports, ...], theirs: tuple[Ports, ...]) -> Ports | None:
    """Some of what both mean; None: nothing."""
    if not mine or not theirs:
        return _some_ports(mine or theirs)
    for ports in mine:
        for other in theirs:
            first, final = max(ports.first, other.first), min(ports.last, other.last)
            if ports.protocol == other.protocol and (ports.protocol == "icmp" or first <= final):
                return Ports(protocol=ports.protocol, first=first, last=final)
    return None


def _some_ports(ports: tuple[Ports, ...]) -> Ports:
    return ports[0] if ports else Ports(protocol="tcp", first=443, last=443)


def _request(path: Path, source: int, destination: int, ports: Ports) -> Packet:
    """`destination`: as the source's network knows it."""
    kind = _CLASSES.get(ports.protocol, L4Class.ECHO_REQUEST)
    ends = (path.source.network, source), (path.destination.network, destination)
    return packet_of(*ends, kind, SOURCE_PORT, ports.first)


def _reply(path: Path, source: int, destination: int, ports: Ports) -> Packet:
    return Packet(
        network=path.destination.network,
        source=text(source),
        destination=text(destination),
        l4_class=_REPLIES[ports.protocol],
        source_port=0 if ports.protocol == "icmp" else ports.first,
        destination_port=0 if ports.protocol == "icmp" else SOURCE_PORT,
    )


def _clause(path: Path) -> str:
    return f"allow {path.index + 1}"


def is_ipv4(value: int) -> bool:
    return value >> 32 == 0xFFFF
