"""A plan with its agreements -> what its nodes need to carry it.

Each SR Policy of the plan has a headend (where the source is) and an endpoint, which may be one node. At either end
the traffic comes from, or goes to, attached hosts or a border. `use` gives the rules by which the networks' own
traffic takes the plan; all else is in `carry` and moves nothing until then.
"""

import ipaddress
from collections.abc import Mapping

import msgspec

from controller.fulfillment import numbering
from controller.fulfillment.fabric import (
    LARGEST_MTU,
    Crossing,
    Fabric,
    SegmentList,
    encapsulation_entries,
    lease_entry,
    local_sid_entry,
    route_entry,
)
from controller.fulfillment.numbering import Direction, Leg
from controller.fulfillment.rules import NoRoom, PortClasses, Rule, compile_rules, permit_priority
from controller.model.agreement import Terms, TunnelEnd
from controller.model.course import Course, Session
from controller.model.entry import Entry, Match
from controller.model.plan import Plan
from controller.model.requirements import Host
from controller.model.sr_policy import SrPolicy
from dataplane.host_api import Tunnel
from dataplane.reasons import FABRIC_CLASS, FABRIC_CONTEXT

FORWARD, REVERSE = Direction.FORWARD, Direction.REVERSE


class Border(msgspec.Struct, frozen=True, kw_only=True):
    """One of the plan's borders, agreed."""

    crossing: Crossing
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


def borders(course: Course, fabric: Fabric) -> tuple[Border | None, Border | None]:
    """Upstream and downstream, where there is one, agreed, and its gateway known."""
    found: list[Border | None] = []
    for session in (course.upstream, course.downstream):
        terms = terms_in_force(session)
        crossing = fabric.crossings.get(terms.border) if terms is not None else None
        if session is None or terms is None or crossing is None:
            found.append(None)
            continue
        agreement = session.agreement
        peer = agreement.acceptor_end if session.offeror and agreement is not None else terms.offeror_end
        found.append(Border(crossing=crossing, peer=peer, expires_s=terms.expires_s, agreement=terms.id))
    return found[0], found[1]


def inside_mtu(plan: Plan, fabric: Fabric) -> int:
    """Largest inner packet that all of the plan's own paths take."""
    return min((fabric.inner_mtu(policy) for policy in plan.sr_policies), default=LARGEST_MTU)


def path_mtu(course: Course, fabric: Fabric) -> int:
    """Largest inner packet that the whole way takes, as far as it is agreed."""
    sizes = [inside_mtu(course.plan, fabric)]
    for border in borders(course, fabric):
        if border is not None:
            sizes += [border.crossing.inner_mtu, border.peer.inner_mtu]
    return min(sizes)


def candidate_lists(
    fabric: Fabric, slot: int, policy: SrPolicy, direction: Direction
) -> tuple[tuple[SegmentList, int], ...]:
    """Each candidate path with the tail's SID that it ends at, best first.

    The last hop is pinned by a route to that SID. So where candidate paths come from one node to the tail by different
    links, each link has its own.
    """
    forward = direction == FORWARD
    locator = fabric.locators[policy.endpoint if forward else policy.headend]
    links: dict[str, list[str]] = {}
    lists = []
    for path in policy.candidate_paths:
        before_tail, link = (path.nodes[-2], path.links[-1]) if forward else (path.nodes[1], path.links[0])
        parallel = links.setdefault(before_tail, [])
        if link not in parallel:
            parallel.append(link)
        tail_sid = numbering.tail_sid(locator, slot, direction, parallel.index(link))
        lists.append((fabric.compile_path(path, reverse=not forward), tail_sid))
    return tuple(lists)


def carry(
    course: Course, fabric: Fabric, classes: PortClasses, stateful: Mapping[str, int]
) -> dict[str, tuple[Entry, ...]]:
    """Entries of each node. `stateful`: own networks whose edges remember who asked, by name. Raises NoRoom."""
    return _Carrier(course, fabric, classes, stateful).entries()


def use(course: Course, stateful: Mapping[str, int]) -> tuple[tuple[str, str, Rule], ...]:
    """(network, node, rule): what makes the traffic of attached hosts take the plan. `stateful`: as for `carry`."""
    plan = course.plan
    rules: list[tuple[str, str, Rule]] = []
    for slot, policy in zip(course.slots, plan.sr_policies, strict=True):
        near, far = policy.headend, policy.endpoint
        for direction, node, network, hosts, outside in (
            (FORWARD, near, plan.connection.source_network, plan.connection.sources, plan.egress),
            (REVERSE, far, plan.connection.destination_network, plan.connection.destinations, plan.ingress),
        ):
            if not hosts:
                continue
            kind = Leg.INSIDE if near != far else (Leg.BORDER if outside is not None else Leg.LOCAL)
            leg = numbering.leg(slot, kind, direction)
            # inside one node who asks is remembered once
            remembered = stateful.get(plan.connection.source_network if kind == Leg.LOCAL else network, 0)
            rules += [(network, node, rule) for rule in flow_rules(course, policy, direction, leg, remembered)]
    return tuple(rules)


def local_routes(course: Course) -> tuple[tuple[str, str, Host], ...]:
    """(network, node, host): hosts of another network on the same node that `use` leads to."""
    plan = course.plan
    found = []
    for policy in plan.sr_policies:
        if policy.headend == policy.endpoint and plan.ingress is None and plan.egress is None:
            node = policy.headend
            found += [(plan.connection.source_network, node, host) for host in _at(plan.connection.destinations, node)]
            found += [(plan.connection.destination_network, node, host) for host in _at(plan.connection.sources, node)]
    return tuple(found)


def local_route_entries(context: int, host: Host, owner: str) -> list[Entry]:
    hop = numbering.ATTACHED_HOP + host.port
    return [route_entry(context, numbering.prefix(address), hop, owner) for address in host.addresses]


def local_steering(course: Course, fabric: Fabric) -> dict[str, tuple[Entry, ...]]:
    """How what `use` permits goes on inside one node, and until when."""
    plan = course.plan
    found: dict[str, tuple[Entry, ...]] = {}
    for slot, policy in zip(course.slots, plan.sr_policies, strict=True):
        if policy.headend == policy.endpoint and plan.ingress is None and plan.egress is None:
            node = policy.headend
            legs = [numbering.leg(slot, Leg.LOCAL, direction) for direction in Direction]
            found[node] = tuple(_deliver(leg, plan.owner) for leg in legs)
            if course.expires_s is not None:
                boot_s = fabric.boot_epochs_s.get(node)
                found[node] += tuple(lease_entry(leg, course.expires_s, boot_s, plan.owner) for leg in legs)
    return found


def flow_rules(course: Course, policy: SrPolicy, direction: Direction, leg: int, network: int = 0) -> list[Rule]:
    """What the plan's flows permit between the ends of one SR Policy. `network`: whose edge this is; 0: a gateway's."""
    connection = course.plan.connection
    rules = []
    for flow in connection.flows:
        sources = _there(flow.source_prefixes, connection.sources, policy.headend)
        destinations = _there(flow.destination_prefixes, connection.destinations, policy.endpoint)
        if not sources or not destinations:
            continue
        forward = direction == FORWARD
        rules.append(
            Rule(
                source=sources if forward else destinations,
                destination=destinations if forward else sources,
                ports=flow.ports,
                reply=not forward,
                leg=leg,
                network=network,
                priority=permit_priority(course.plan.priority, course.plan.serial),
                owner=course.plan.owner,
            )
        )
    return rules


def _there(prefixes: tuple[str, ...], hosts: tuple[Host, ...], node: str) -> tuple[str, ...]:
    """The part of `prefixes` that is at `node`: all, where the hosts are not ours."""
    if not hosts:
        return prefixes
    wanted = [ipaddress.ip_network(prefix) for prefix in prefixes]
    return tuple(
        sorted(
            address
            for host in _at(hosts, node)
            for address in host.addresses
            if any(_contains(prefix, address) for prefix in wanted)
        )
    )


def _contains(prefix: ipaddress.IPv4Network | ipaddress.IPv6Network, host: str) -> bool:
    return ipaddress.ip_address(host.split("/")[0]) in prefix


def _at(hosts: tuple[Host, ...], node: str) -> list[Host]:
    return [host for host in hosts if host.node == node]


class _Carrier:
    """Collects the entries of one course by node."""

    def __init__(self, course: Course, fabric: Fabric, classes: PortClasses, stateful: Mapping[str, int]) -> None:
        self._course = course
        self._plan = course.plan
        self._owner = course.plan.owner
        self._fabric = fabric
        self._classes = classes
        self._stateful = stateful
        self._upstream, self._downstream = borders(course, fabric)
        self._mtu = path_mtu(course, fabric)
        ends_s = [border.expires_s for border in (self._upstream, self._downstream) if border is not None]
        ends_s += [course.expires_s] if course.expires_s is not None else []
        self._expires_s = min(ends_s, default=None)
        """With the first of its intent and its agreements all of it ends."""
        self._entries: dict[str, list[Entry]] = {}

    def entries(self) -> dict[str, tuple[Entry, ...]]:
        for slot, policy in zip(self._course.slots, self._plan.sr_policies, strict=True):
            if policy.headend != policy.endpoint:
                for direction in Direction:
                    self._inside(slot, policy, direction)
            self._into_border(slot, policy.endpoint, self._downstream, FORWARD)
            self._into_border(slot, policy.headend, self._upstream, REVERSE)
        base = self._course.slots[0]
        self._from_border(base, self._upstream, FORWARD)
        self._from_border(base, self._downstream, REVERSE)
        return {node: tuple(ones) for node, ones in self._entries.items()}

    def _add(self, node: str, *entries: Entry) -> None:
        self._entries.setdefault(node, []).extend(entries)

    def _inside(self, slot: int, policy: SrPolicy, direction: Direction) -> None:
        """From one end of an SR Policy to the other, where it goes on."""
        forward = direction == FORWARD
        head, tail = (policy.headend, policy.endpoint) if forward else (policy.endpoint, policy.headend)
        lists = candidate_lists(self._fabric, slot, policy, direction)
        segments = [(*compiled.segments, tail_sid) for compiled, tail_sid in lists]
        self._encapsulate(head, slot, direction, numbering.leg(slot, Leg.INSIDE, direction), segments)
        context = numbering.tail_context(slot, direction)
        for compiled, tail_sid in lists:
            if compiled.last_hop is not None:
                node, hop = compiled.last_hop
                self._add(node, route_entry(FABRIC_CONTEXT, (tail_sid, 128), hop, self._owner))
        answer_leg = numbering.leg(slot, Leg.INSIDE, REVERSE if forward else FORWARD)
        into = (("context", context), ("answer_leg", answer_leg))
        for tail_sid in sorted({tail_sid for _, tail_sid in lists}):
            self._add(tail, local_sid_entry(FABRIC_CLASS, tail_sid, "end_dt46", into, self._owner))
        onward = self._downstream if forward else self._upstream
        leg = numbering.leg(slot, Leg.BORDER if onward is not None else Leg.DELIVER, direction)
        network = self._edge_of(direction) if onward is None else 0
        self._permit(tail, context, flow_rules(self._course, policy, direction, leg, network))
        if onward is None:
            self._deliver_here(tail, context, leg, direction)

    def _into_border(self, slot: int, node: str, border: Border | None, direction: Direction) -> None:
        """From a gateway into the tunnel to a neighbour."""
        if border is None:
            return
        leg = numbering.leg(slot, Leg.BORDER, direction)
        peer_sid = int(ipaddress.IPv6Address(border.peer.sid))
        hop = numbering.TUNNEL_HOP + border.crossing.port
        self._encapsulate(node, slot, direction, leg, [(peer_sid,)])
        self._add(node, route_entry(FABRIC_CONTEXT, (peer_sid, 128), hop, self._owner))

    def _from_border(self, base: int, border: Border | None, direction: Direction) -> None:
        """What comes out of the tunnel from a neighbour, to each of the SR Policies' other ends."""
        if border is None:
            return
        forward = direction == FORWARD
        node = border.crossing.node
        context = numbering.border_context(base, direction)
        sid = numbering.border_sid(self._fabric.locators[node], base, direction)
        ingress_class = border.crossing.ingress_class
        into = (("context", context), ("answer_leg", self._leg_back(node, direction)))
        self._add(node, local_sid_entry(ingress_class, sid, "end_dt46", into, self._owner))
        onward = self._downstream if forward else self._upstream
        rules: list[Rule] = []
        for slot, policy in zip(self._course.slots, self._plan.sr_policies, strict=True):
            if policy.headend != policy.endpoint:
                kind = Leg.INSIDE
            else:
                kind = Leg.BORDER if onward is not None else Leg.DELIVER
            leg = numbering.leg(slot, kind, direction)
            network = self._edge_of(direction) if kind == Leg.DELIVER else 0
            rules += flow_rules(self._course, policy, direction, leg, network)
            if kind == Leg.DELIVER:
                self._deliver_here(node, context, leg, direction)
        self._permit(node, context, rules)

    def _edge_of(self, direction: Direction) -> int:
        """Where traffic in `direction` is delivered."""
        connection = self._plan.connection
        forward = direction == FORWARD
        return self._stateful.get(connection.destination_network if forward else connection.source_network, 0)

    def _leg_back(self, node: str, direction: Direction) -> int:
        """Back into the tunnel from which traffic in `direction` comes, for what the node itself has to say of it."""
        slots = zip(self._course.slots, self._plan.sr_policies, strict=True)
        back = REVERSE if direction == FORWARD else FORWARD
        ends = ((slot, policy.headend if direction == FORWARD else policy.endpoint) for slot, policy in slots)
        return next((numbering.leg(slot, Leg.BORDER, back) for slot, end in ends if end == node), 0)

    def _permit(self, node: str, context: int, rules: list[Rule]) -> None:
        try:
            self._add(node, *compile_rules(context, tuple(rules), self._classes))
        except NoRoom as full:
            raise NoRoom(full.table, full.needed, node) from full

    def _deliver_here(self, node: str, context: int, leg: int, direction: Direction) -> None:
        connection = self._plan.connection
        hosts = connection.destinations if direction == FORWARD else connection.sources
        self._add(node, _deliver(leg, self._owner))
        self._lease(node, leg)
        for host in _at(hosts, node):
            self._add(node, *local_route_entries(context, host, self._owner))

    def _encapsulate(self, node: str, slot: int, direction: Direction, leg: int, lists: list[tuple[int, ...]]) -> None:
        self._add(
            node,
            *encapsulation_entries(
                leg,
                numbering.sr_policy(slot, direction),
                lists,
                source=numbering.sid(self._fabric.locators[node], 0),
                dscp=self._plan.connection.dscp,
                color=slot,
                inner_mtu=self._mtu,
                owner=self._owner,
            ),
        )
        self._lease(node, leg)

    def _lease(self, node: str, leg: int) -> None:
        """Whatever is steered ends by itself, where it has an end."""
        if self._expires_s is not None:
            boot_epoch_s = self._fabric.boot_epochs_s.get(node)
            self._add(node, lease_entry(leg, self._expires_s, boot_epoch_s, self._owner))


def tunnels(ends: list[tuple[Border, str]]) -> dict[str, tuple[Tunnel, ...]]:
    """Of each node: one for each border in use. `ends`: oldest first, each with the neighbour's SID block."""
    found: dict[str, dict[str, Tunnel]] = {}
    for border, sid_block in ends:
        found.setdefault(border.crossing.node, {})[border.crossing.border] = Tunnel(
            border=border.crossing.border,
            peer_public_key=border.peer.public_key,
            peer_endpoint=border.peer.endpoint,
            allowed_ips=(sid_block,),
        )
    return {node: tuple(ones[name] for name in sorted(ones)) for node, ones in found.items()}


def _leg(leg: int) -> tuple[Match, ...]:
    return (Match(field="leg", value=leg),)


def _deliver(leg: int, owner: str) -> Entry:
    return Entry(table="steer", match=_leg(leg), action="deliver", owner=owner)
