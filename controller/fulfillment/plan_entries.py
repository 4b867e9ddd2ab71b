"""A plan with its agreements -> what its nodes need to carry it.

Each SR Policy of the plan has a headend (where the source is) and an endpoint, which may be one node. At either end
the traffic comes from, or goes to, attached hosts or a border. `use_rules` are those by which the networks' own traffic
takes the plan; all else moves nothing until then. Rules are compiled with those of others (fulfillment/acl.py).
"""

import ipaddress
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from controller.fulfillment import numbering, plan_ids
from controller.fulfillment.acl import Rule, permit_priority
from controller.fulfillment.aliases import Views, reversed_aliases, translated, views
from controller.fulfillment.fabric import (
    LARGEST_MTU,
    Arrival,
    BorderPort,
    Fabric,
    admit_entry,
    deliver_entry,
    encapsulate_entry,
    lease_entry,
    move_entry,
    service_entry,
    service_hops,
    service_way_entry,
    translated_entry,
)
from controller.fulfillment.numbering import Direction
from controller.fulfillment.plan_ids import BORDER, DELIVER, FORWARD, INSIDE, LOCAL, REVERSE, Stretch, stretches
from controller.fulfillment.plan_paths import SrPolicies, known
from controller.model.agreement import Terms, TunnelEnd
from controller.model.entry import OwnedEntry
from controller.model.plan import Plan
from controller.model.requirements import Host, Waypoint
from controller.model.sharing import Shared
from controller.model.stitch import Session, Stitch
from controller.model.tunnel_keys import BorderKeys, Epoch
from dataplane.host_api import Tunnel
from dataplane.reasons import FABRIC_CLASS


class Border(msgspec.Struct, frozen=True, kw_only=True):
    """One of the plan's borders, agreed."""

    border_port: BorderPort
    peer: TunnelEnd
    expires_s: int
    agreement: str


def terms_in_force(session: Session | None) -> Terms | None:
    """What we must be able to carry: what we have signed, newest first."""
    if session is None:
        return None
    if session.answer is not None:
        return session.answer.terms
    return session.agreement.terms if session.agreement is not None else None


def borders(stitch: Stitch, fabric: Fabric) -> tuple[Border | None, Border | None]:
    """Upstream and downstream, where there is one, agreed, and its gateway known."""
    if stitch.upstream is None and stitch.downstream is None:
        return None, None
    ends: list[Border | None] = []
    for session in (stitch.upstream, stitch.downstream):
        terms = terms_in_force(session)
        border_port = fabric.border_ports.get(terms.border) if terms is not None else None
        if session is None or terms is None or border_port is None:
            ends.append(None)
            continue
        agreement = session.agreement
        peer = agreement.acceptor_end if session.offeror and agreement is not None else terms.offeror_end
        ends.append(Border(border_port=border_port, peer=peer, expires_s=terms.expires_s, agreement=terms.id))
    return ends[0], ends[1]


def inside_mtu(plan: Plan, fabric: Fabric, sr_policies: SrPolicies) -> int:
    """Largest inner packet that all of the plan's own paths take."""
    return min((fabric.inner_mtu(known(id, sr_policies)) for id in plan.sr_policies), default=LARGEST_MTU)


def path_mtu(stitch: Stitch, fabric: Fabric, sr_policies: SrPolicies) -> int:
    """Largest inner packet that the whole way takes, as far as it is agreed."""
    sizes = [inside_mtu(stitch.plan, fabric, sr_policies)]
    for border in borders(stitch, fabric):
        if border is not None:
            sizes += [border.border_port.inner_mtu, border.peer.inner_mtu]
    return min(sizes)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A network at one of its edges."""

    vrf: int
    policy_class: int
    """Of its hosts there."""
    attached: tuple[str, ...]
    """Prefixes of these, sorted: no others can be their source."""
    is_stateful: bool
    """Its edges let pass only replies to what was asked."""
    serves: bool = False
    """What others have sent can come from its hosts, since it has passed a service there."""


Places = Mapping[tuple[str, str], Place]
"""By network and node, of own networks."""


class SharedPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """An SR Policy that a plan uses, beside all that want the same."""

    node: str
    """Headend."""
    number: int
    policy: str = ""
    """Its name; empty: it leads into a tunnel."""
    border_port: BorderPort | None = None


def shared_policies(stitch: Stitch, fabric: Fabric, sr_policies: SrPolicies) -> Iterator[SharedPolicy]:
    upstream, downstream = borders(stitch, fabric)
    for stretch in stretches(stitch.plan):
        if stretch.crosses:
            number = sr_policies[stretch.id.name].number_at(stretch.head)
            yield SharedPolicy(node=stretch.head, number=number, policy=stretch.id.name)
        border = downstream if stretch.direction == FORWARD else upstream
        if stretch.onward is not None and border is not None:
            number = stitch.ids[plan_ids.border_sr_policy(stretch.onward)]
            yield SharedPolicy(node=stretch.onward.node, number=number, border_port=border.border_port)


def plan_entries(stitch: Stitch, fabric: Fabric, sr_policies: SrPolicies) -> dict[str, tuple[OwnedEntry, ...]]:
    """Of each node: SIDs, and how each forwarding class goes on and until when; `shared_policies`, `border_services`
    and rules are beside."""
    plan, ids, owner = stitch.plan, stitch.ids, stitch.plan.owner
    upstream, downstream = borders(stitch, fabric)
    mtu = path_mtu(stitch, fabric, sr_policies)
    ends_s = [border.expires_s for border in (upstream, downstream) if border is not None]
    ends_s += [stitch.expires_s] if stitch.expires_s is not None else []
    expires_s = min(ends_s, default=None)
    """With the first of its intent and its agreements all of it ends."""
    known_as = views(stitch)
    entries: dict[str, list[OwnedEntry]] = {}

    def steer(stretch: Stretch, way: str, node: str, entry: OwnedEntry) -> None:
        of_node = entries.setdefault(node, [])
        moves = _moves(stretch, known_as, entry.match[0].value, owner) if stretch.is_sent(way) else []
        of_node += [translated_entry(entry), *moves] if moves else [entry]
        if expires_s is not None:
            number = entry.match[0].value
            of_node.append(lease_entry(number, expires_s, fabric.boot_epochs_s.get(node), owner))

    def encapsulate(stretch: Stretch, way: str, node: str, sr_policy: int, service_sid: int) -> None:
        number = ids[stretch.forwarding_class(way)]
        entry = encapsulate_entry(number, sr_policy, service_sid, plan.connection.dscp, mtu, owner)
        steer(stretch, way, node, entry)

    for stretch in stretches(plan):
        border = downstream if stretch.direction == FORWARD else upstream
        if stretch.crosses:
            vrf, policy_class, function = (ids[key] for key in plan_ids.at_tail(stretch))
            sid = numbering.sid(fabric.locators[stretch.tail], function)
            encapsulate(stretch, INSIDE, stretch.head, sr_policies[stretch.id.name].number_at(stretch.head), sid)
            back = next(
                other
                for other in stretches(plan)
                if other.index == stretch.index and other.direction != stretch.direction
            )
            into = Arrival(vrf=vrf, policy_class=policy_class)
            answer = ids[back.forwarding_class(INSIDE)]
            entries.setdefault(stretch.tail, []).append(service_entry(FABRIC_CLASS, sid, into, answer, owner))
        if stretch.onward is not None and border is not None:
            peer = int(ipaddress.IPv6Address(border.peer.sid))
            into_tunnel = ids[plan_ids.border_sr_policy(stretch.onward)]
            encapsulate(stretch, BORDER, stretch.onward.node, into_tunnel, peer)
        last = stretch.last if stretch.crosses else stretch.first
        if stretch.to_service is not None:
            hops = _service_hops(stretch.to_service, stretch.direction)
            entry = service_way_entry(ids[stretch.forwarding_class(last)], hops, mtu, owner)
            steer(stretch, last, stretch.tail, entry)
        if stretch.from_service is not None:
            admitted = (
                admit_entry(_back_from(stretch.from_service, stretch.direction), numbering.prefix(prefix), owner)
                for prefix in _senders(plan, stretch)
            )
            entries.setdefault(stretch.head, []).extend(admitted)
        if stretch.to_hosts:
            vrf = ids[plan_ids.vrf(stretch.tail, plan, stretch.direction, delivers=True)]
            entry = deliver_entry(ids[stretch.forwarding_class(last)], vrf, owner)
            steer(stretch, last, stretch.tail, entry)
    return {node: tuple(of_node) for node, of_node in entries.items()}


def _back_from(service: Waypoint, direction: Direction) -> int:
    """The port by which traffic comes back from it."""
    return service.outward if direction == FORWARD else service.inward


def _service_hops(service: Waypoint, direction: Direction) -> tuple[int, int]:
    """Next hops of IPv4 and IPv6 by which traffic goes into it; 0: it takes none of that."""
    forward = direction == FORWARD
    port, addresses = (
        (service.inward, service.inward_addresses) if forward else (service.outward, service.outward_addresses)
    )
    ipv4, ipv6 = service_hops(port)
    takes_ipv6 = {":" in address for address in addresses}
    return ipv4 if False in takes_ipv6 else 0, ipv6 if True in takes_ipv6 else 0


def _senders(plan: Plan, stretch: Stretch) -> tuple[str, ...]:
    """Addresses that what comes back from a service may have as its source."""
    flows = plan.connection.flows
    if stretch.direction == FORWARD:
        return tuple(sorted({prefix for flow in flows for prefix in flow.source_prefixes}))
    return tuple(sorted({prefix for flow in flows for prefix in flow.destination_prefixes}))


def _moves(stretch: Stretch, known_as: Views, forwarding_class: int, owner: str) -> list[OwnedEntry]:
    """From what the sender knows into what the receiver does."""
    forward = stretch.direction == FORWARD
    own, others = (known_as.source, known_as.destination) if forward else (known_as.destination, known_as.source)
    sides = (("source", own), ("destination", reversed_aliases(others)))
    return [
        move_entry(side, forwarding_class, numbering.prefix(alias.prefix), numbering.prefix(alias.alias)[0], owner)
        for side, aliases in sides
        for alias in aliases
    ]


class SharedService(NamedTuple):
    """What a neighbour sends us for an agreement comes in here; it may be for several stitches."""

    node: str
    function: int
    entry: OwnedEntry


def border_services(stitch: Stitch, fabric: Fabric) -> Iterator[SharedService]:
    for direction, border in zip((FORWARD, REVERSE), borders(stitch, fabric), strict=True):
        if border is None:
            continue
        vrf, policy_class, function = (stitch.ids[key] for key in plan_ids.from_border(stitch.plan, direction))
        node, ingress_class = border.border_port.node, border.border_port.ingress_class
        sid = numbering.sid(fabric.locators[node], function)
        into = Arrival(vrf=vrf, policy_class=policy_class)
        answer = _answer_class(stitch, node, direction)
        yield SharedService(node, function, service_entry(ingress_class, sid, into, answer, stitch.plan.owner))


def _answer_class(stitch: Stitch, node: str, direction: Direction) -> int:
    """Back into the tunnel from which traffic in `direction` comes, for what the node itself has to say of it."""
    back = (
        stretch for stretch in stretches(stitch.plan) if stretch.direction == _back(direction) and stretch.tail == node
    )
    return next((stitch.ids[stretch.forwarding_class(BORDER)] for stretch in back), 0)


def _back(direction: Direction) -> Direction:
    return REVERSE if direction == FORWARD else FORWARD


def plan_rules(stitch: Stitch, fabric: Fabric, places: Places) -> Iterator[tuple[str, int, Rule]]:
    """(node, VRF, rule): what may come out of the plan's SR Policies and tunnels, and how it goes on."""
    plan, ids = stitch.plan, stitch.ids
    for stretch in stretches(plan):
        if stretch.crosses:
            vrf, policy_class, _ = (ids[key] for key in plan_ids.at_tail(stretch))
            asked_in = _asked_in(places, plan, stretch, stretch.tail) if stretch.to_hosts else 0
            for rule in _flow_rules(stitch, stretch, policy_class, stretch.last, asked_in, is_sent=False):
                yield stretch.tail, vrf, rule
    upstream, downstream = borders(stitch, fabric)
    for direction, border in ((FORWARD, upstream), (REVERSE, downstream)):
        if border is None:
            continue
        vrf, policy_class, _ = (ids[key] for key in plan_ids.from_border(plan, direction))
        for stretch in stretches(plan):
            if stretch.direction == direction and stretch.before is not None:
                asked_in = _asked_in(places, plan, stretch, stretch.tail) if stretch.first == DELIVER else 0
                for rule in _flow_rules(stitch, stretch, policy_class, stretch.first, asked_in, is_sent=False):
                    yield border.border_port.node, vrf, rule


def use_rules(stitch: Stitch, places: Places) -> Iterator[tuple[str, int, Rule]]:
    """(node, VRF, rule): what makes the traffic of attached hosts take the plan, and go on behind services."""
    plan = stitch.plan
    connection = plan.connection
    for stretch in stretches(plan):
        if stretch.from_service is not None:
            yield from _rules_behind(stretch.from_service, stitch, stretch, places)
        if not stretch.from_hosts:
            continue
        forward = stretch.direction == FORWARD
        hosts = connection.sources if forward else connection.destinations
        network, _ = plan_ids.ends(plan, stretch.direction)
        place = places.get((network, stretch.head))
        if not hosts or place is None:
            continue
        # inside one node who asks is remembered once
        asker = places.get((connection.source_network, stretch.head)) if stretch.first == LOCAL else place
        asked_in = asker.vrf if asker is not None and asker.is_stateful else 0
        for rule in _flow_rules(stitch, stretch, place.policy_class, stretch.first, asked_in, is_sent=True):
            anybody = rule.source is not None and set(place.attached) <= set(rule.source) and not place.serves
            yield stretch.head, place.vrf, msgspec.structs.replace(rule, source=None) if anybody else rule


def _rules_behind(
    service: Waypoint, stitch: Stitch, stretch: Stretch, places: Places
) -> Iterator[tuple[str, int, Rule]]:
    """Of what comes back from it."""
    place = places.get((service.network, service.node))
    if place is not None:
        asked_in = _asked_in(places, stitch.plan, stretch, stretch.tail) if stretch.first == DELIVER else 0
        for rule in _flow_rules(stitch, stretch, place.policy_class, stretch.first, asked_in, is_sent=False):
            yield stretch.head, place.vrf, rule


def _asked_in(places: Places, plan: Plan, stretch: Stretch, node: str) -> int:
    """VRF of the network to which traffic is delivered, if its edges remember who asked."""
    _, network = plan_ids.ends(plan, stretch.direction)
    place = places.get((network, node))
    return place.vrf if place is not None and place.is_stateful else 0


def _flow_rules(
    stitch: Stitch, stretch: Stretch, policy_class: int, way: str, asked_in: int, *, is_sent: bool
) -> list[Rule]:
    """What the plan's flows permit between the ends of one SR Policy: with the addresses that the sender knows, or,
    once that has sent it, the receiver."""
    connection, known_as = stitch.plan.connection, views(stitch)
    in_view_of_source = is_sent == (stretch.direction == FORWARD)
    number = stitch.ids[stretch.forwarding_class(way)]
    leased = any(end is not None for end in (stitch.expires_s, stitch.upstream, stitch.downstream))
    rules = []
    plan = stitch.plan
    for flow in connection.flows:
        sources, destinations = flow.source_prefixes, flow.destination_prefixes
        if stretch.part == 0:
            sources = _there(sources, connection.sources, stretch.id.headend)
        if stretch.part == len(plan.via):
            destinations = _there(destinations, connection.destinations, stretch.id.endpoint)
        if not sources or not destinations:
            continue
        if in_view_of_source:
            destinations = translated(destinations, known_as.destination)
        else:
            sources = translated(sources, known_as.source)
        forward = stretch.direction == FORWARD
        rules.append(
            Rule(
                policy_class=policy_class,
                source=sources if forward else destinations,
                destination=destinations if forward else sources,
                ports=flow.ports,
                reply=not forward,
                forwarding_class=number,
                asked_in=asked_in,
                leased=leased,
                priority=permit_priority(stitch.plan.priority, stitch.plan.serial),
                owner=stitch.plan.owner,
            )
        )
    return rules


_PREFIXES: Shared[tuple[str, ...]] = Shared()


def _there(prefixes: tuple[str, ...], hosts: tuple[Host, ...], node: str) -> tuple[str, ...]:
    """The part of `prefixes` that is at `node`: all, where the hosts are not ours."""
    if not hosts:
        return prefixes
    return _PREFIXES(
        tuple(
            sorted(
                address
                for host in hosts
                if host.node == node
                for address in host.addresses
                if any(numbering.contains(prefix, address.partition("/")[0]) for prefix in prefixes)
            )
        )
    )


def tunnels(ends: list[tuple[Border, str, BorderKeys | None]]) -> dict[str, tuple[Tunnel, ...]]:
    """Of each node: one for each border in use, and one more where its keys are renewed. `ends`: oldest first, each
    with the neighbour's SID block."""
    by_node: dict[str, dict[str, tuple[Tunnel, ...]]] = {}
    for border, sid_block, keys in ends:
        agreed = Tunnel(
            border=border.border_port.border,
            peer_public_key=border.peer.public_key,
            peer_endpoint=border.peer.endpoint,
            allowed_ips=(sid_block,),
        )
        of_node = by_node.setdefault(border.border_port.node, {})
        of_node[agreed.border] = _renewed(agreed, keys) if keys is not None else (agreed,)
    return {node: tuple(one for name in sorted(of_node) for one in of_node[name]) for node, of_node in by_node.items()}


def _renewed(agreed: Tunnel, keys: BorderKeys) -> tuple[Tunnel, ...]:
    in_use = _of_epoch(agreed, keys.in_use, is_next=False) if keys.in_use is not None else agreed
    if keys.next is None:
        return (in_use,)
    following = _of_epoch(agreed, keys.next, is_next=True)
    return (in_use, following) if (in_use.epoch - following.epoch) % 2 else (following,)


def _of_epoch(agreed: Tunnel, epoch: Epoch, *, is_next: bool) -> Tunnel:
    theirs = epoch.theirs
    if theirs is None:
        return Tunnel(border=agreed.border, peer_public_key="", peer_endpoint="", allowed_ips=(), epoch=epoch.number)
    waits = is_next and bool(theirs.kem_key)
    return msgspec.structs.replace(
        agreed,
        peer_public_key=theirs.public_key,
        peer_endpoint=theirs.endpoint,
        persistent_keepalive_s=0 if waits else agreed.persistent_keepalive_s,  # who has begun shakes hands first
        epoch=epoch.number,
        kem_key=theirs.kem_key,
        kem_ciphertext=theirs.kem_ciphertext,
    )
