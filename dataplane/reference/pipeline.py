"""The pipeline of a node: a frame in, a verdict out. The stages are in the order of `p4src/stitch.p4`."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from dataplane.entry import TableEntry
from dataplane.reasons import (
    ATTACHMENT_CLASS,
    CUT_LARGEST_PACKET,
    CUT_SMALLEST_MTU,
    FABRIC_CLASS,
    FABRIC_VRF,
    IPV6_LEAST_MTU,
    NEIGHBORS_OF_PORT,
    DropReason,
    IcmpError,
    L4Class,
    PipelineEvent,
)
from dataplane.reference import icmp, neighbor, srv6
from dataplane.reference.conversation import Asking
from dataplane.reference.flow import FlowKey, Flows, Whence
from dataplane.reference.fragment import Fragments, cut
from dataplane.reference.match import Tables
from dataplane.reference.packet import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    MALFORMED,
    PROTOCOL_ICMP,
    PROTOCOL_ICMPV6,
    PROTOCOL_TCP,
    Ethernet,
    Ip,
    Transport,
    is_forwardable,
    parse_ethernet,
    parse_ip,
    parse_transport,
    untagged,
)
from dataplane.reference.srv6 import Outer, Path
from dataplane.reference.translate import Translation
from dataplane.reference.verdict import Cut, Drop, Forward, Pass, Punt, Verdict

ETHERNET_BYTES = 14
TCP_OVERHEAD = {4: 40, 6: 60}
"""IP version → bytes of IP and TCP headers without options."""


NEIGHBOR_WAIT_S, NEIGHBOR_AGAIN_S, UNANSWERED_REST_S = 3.0, 5.0, 60.0
"""After how long a host counts as unreachable, how often it is asked then, and when it is begun anew."""


@dataclass(frozen=True, slots=True)
class Port:
    """What a node knows of one of its ports: its MAC, and the gateway addresses it answers for (0: none)."""

    mac: bytes
    ipv4: int = 0
    """As ::ffff:0:0/96."""
    ipv6: int = 0
    mtu: int = 0
    """Of the packets that it takes; 0: not known."""

    def gateway(self, version: int) -> int:
        return self.ipv4 if version == 4 else self.ipv6


@dataclass(frozen=True, slots=True)
class Arrival:
    """A frame and where it came from. `whence` changes when a packet is decapsulated."""

    whence: Whence
    entered_at: int
    """The port, in any case."""
    ethernet: Ethernet
    ingress_class: int
    now_boottime_s: float
    rejects: bool = False
    """Denied packets of its network are answered."""
    decapsulated: bool = False
    is_piece: bool = False
    """Of a packet that was cut here; nobody is told what becomes of it."""
    answer_class: int = 0
    """Of what was decapsulated: on which forwarding class its sender is told; 0: as its VRF says."""

    @property
    def vrf(self) -> int:
        return self.whence.vrf

    @property
    def policy_class(self) -> int:
        return self.whence.policy_class

    @property
    def port(self) -> int:
        return self.whence.port


class Pipeline:
    """One node. `cache` must not change what is permitted; table entries are fixed for a pipeline's life."""

    def __init__(
        self, tables: Iterable[TableEntry] | Tables, ports: Mapping[int, Port], *, cache: bool = False
    ) -> None:
        self.tables = tables if isinstance(tables, Tables) else Tables(tables)
        self.ports = dict(ports)
        self.events: Counter[PipelineEvent] = Counter()
        self.flows = Flows(self.tables, cache, events=self.events)
        self.neighbors: dict[tuple[int, int], bytes] = {}
        """(port, address) → MAC, in the order in which the addresses were learnt."""
        self.confirmed_s: dict[tuple[int, int], float] = {}
        """When a question of ours was answered from that MAC; not in it: it was not, or there is doubt."""
        self.unanswered: dict[tuple[int, int], tuple[float, float]] = {}
        """Since when nobody answers for an address of a port, and when it was last asked for."""
        self.drops: Counter[int] = Counter()
        self.drop_bytes: Counter[int] = Counter()
        self.class_drops: Counter[int] = Counter()
        self.class_drop_bytes: Counter[int] = Counter()
        """Of what was permitted, by forwarding class."""
        self._permitted = 0
        """The forwarding class of the frame that is looked at; 0: none, or not yet."""
        self.fragments = Fragments(events=self.events)

    def run(self, port: int, frame: bytes, now_boottime_s: float) -> Verdict:
        """What becomes of `frame`, which entered at `port`; counts and learns on the way."""
        if port not in self.ports:
            return Pass()
        self._permitted = 0
        verdict = self._classify(port, frame, now_boottime_s)
        self._count(verdict, len(frame))
        return verdict

    def _count(self, verdict: Verdict, size: int) -> None:
        if isinstance(verdict, Drop) or (isinstance(verdict, Forward) and verdict.reason != DropReason.NONE):
            self.drops[verdict.reason] += 1
            self.drop_bytes[verdict.reason] += size
            if self._permitted:
                self.class_drops[self._permitted] += 1
                self.class_drop_bytes[self._permitted] += size

    def _classify(self, port: int, frame: bytes, now_boottime_s: float) -> Verdict:
        ethernet = parse_ethernet(frame)
        if isinstance(ethernet, Drop):
            return ethernet
        attachment = self.tables.look_up("attachment", ingress_port=port, vlan_id=ethernet.vlan_id)
        if attachment is None:
            return Drop(DropReason.UNKNOWN_ATTACHMENT)
        vrf = attachment.params.get("vrf", FABRIC_VRF)
        whence = Whence(vrf, attachment.params.get("policy_class", 0), port)
        ingress_class = attachment.params.get("ingress_class", ATTACHMENT_CLASS)
        is_ours = ethernet.is_to_group or ethernet.destination == self.ports[port].mac
        if ingress_class == ATTACHMENT_CLASS and not is_ours:
            return Drop(DropReason.NOT_TO_US)
        rejects = attachment.name == "attach_reject"
        arrival = Arrival(whence, port, ethernet, ingress_class, now_boottime_s, rejects=rejects)
        punted = self.tables.look_up("punt_frame", **_punt_key(ingress_class, ethernet))
        if punted and punted.name == "punt":
            return Punt(punted.params["reason"], frame, vrf)
        if punted:
            return Drop(punted.params["reason"])
        return self._attachment(arrival) if ingress_class == ATTACHMENT_CLASS else self._link(arrival)

    # Links: SRv6 is ours, what else a node needs to live is the kernel's.

    def _link(self, arrival: Arrival) -> Verdict:
        ethernet = arrival.ethernet
        if ethernet.ether_type == ETHERTYPE_ARP:
            return Pass()
        if ethernet.ether_type != ETHERTYPE_IPV6:
            return Drop(DropReason.NOT_IP)
        if len(ethernet.payload) < 40:
            return MALFORMED
        if not srv6.is_sid(int.from_bytes(ethernet.payload[24:40])):
            return Pass()
        outer = srv6.parse_outer(ethernet.payload)
        return outer if isinstance(outer, Drop) else self._local_sid(arrival, outer)

    def _local_sid(self, arrival: Arrival, outer: Outer) -> Verdict:
        sid = self.tables.look_up("local_sid", ingress_class=arrival.ingress_class, destination=outer.destination)
        if sid is None:
            # RFC 8754 §5.1: a neighbour uses only the SIDs it was given; the fabric is ours, and is crossed.
            if arrival.ingress_class != FABRIC_CLASS:
                return Drop(DropReason.SID_NOT_ADMITTED)
            return self._route_outer(arrival, outer)
        if sid.name == "drop":
            return Drop(sid.params["reason"])
        if sid.name == "end_dt46":
            return self._end_dt46(arrival, outer, sid.params)
        advanced = srv6.end(outer, 2 if sid.name == "end_x" else 1)
        if isinstance(advanced, Drop):
            if sid.name == "end" and advanced.reason == DropReason.SEGMENTS_LEFT and srv6.is_probe(outer):
                self.events[PipelineEvent.PROBE_FORGED] += 1
            return advanced
        self.events[PipelineEvent.END] += 1
        if sid.name == "end_x":
            return self._send_outer(arrival, advanced, sid.params["next_hop"])
        return self._route_outer(arrival, advanced)

    def _end_dt46(self, arrival: Arrival, outer: Outer, into: Mapping[str, int]) -> Verdict:
        inner = srv6.decapsulate(outer)
        if isinstance(inner, Drop):
            return inner
        trimmed_to = srv6.trimmed_to(outer)
        self.events[PipelineEvent.DECAPSULATED] += 1
        if not is_forwardable(inner):
            return Drop(DropReason.NOT_FORWARDABLE)
        ethernet = Ethernet(arrival.ethernet.destination, arrival.ethernet.source, b"", inner.ether_type, inner.data)
        inside = replace(
            arrival,
            whence=Whence(into["vrf"], into["policy_class"], 0),
            ethernet=ethernet,
            decapsulated=True,
            answer_class=into["answer_class"],
        )
        return self._tell_of_trimmed(inside, inner, trimmed_to) if trimmed_to else self._flow(inside, inner)

    def _tell_of_trimmed(self, arrival: Arrival, ip: Ip, mtu: int) -> Verdict:
        """Of `ip` a node before us has left only the beginning; there it was counted as too big."""
        transport = None if ip.fragment_offset else parse_transport(ip)
        if isinstance(transport, Drop):
            return transport
        if ip.version == 6 and mtu < IPV6_LEAST_MTU:
            return self._refuse(arrival, ip, DropReason.TRIMMED, IcmpError.NO_ROUTE)
        return self._refuse(arrival, ip, DropReason.TRIMMED, IcmpError.TOO_BIG, mtu)

    # Attachments: all that enters is ours.

    def _attachment(self, arrival: Arrival) -> Verdict:
        ethernet = arrival.ethernet
        if ethernet.ether_type == ETHERTYPE_ARP:
            return self._arp(arrival)
        if ethernet.ether_type not in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
            return Drop(DropReason.NOT_IP)
        ip = parse_ip(ethernet.ether_type, ethernet.payload)
        if isinstance(ip, Drop):
            return ip
        if neighbor.is_discovery(ip):
            message = neighbor.parse_discovery(ethernet, ip)
            return self._neighbor(arrival, message) if message else Drop(DropReason.NEIGHBOR_IGNORED)
        if ethernet.is_to_group:
            return Drop(DropReason.NOT_TO_US)  # RFC 1812 §5.3.4
        port = self.ports[arrival.port]
        if ip.destination == port.gateway(ip.version) != 0:
            return self._to_gateway(arrival, ip)
        if ip.version == 6 and srv6.is_sid(ip.destination):
            return Drop(DropReason.SID_NOT_ADMITTED)  # RFC 8754 §5.1
        if not is_forwardable(ip):
            return Drop(DropReason.NOT_FORWARDABLE)
        return self._flow(arrival, ip)

    def _arp(self, arrival: Arrival) -> Verdict:
        if len(arrival.ethernet.payload) < neighbor.ARP_LENGTH:
            return MALFORMED
        message = neighbor.parse_arp(arrival.ethernet, self.ports[arrival.port].ipv4)
        return self._neighbor(arrival, message) if message else Drop(DropReason.NEIGHBOR_IGNORED)

    def _neighbor(self, arrival: Arrival, message: neighbor.NeighborMessage) -> Verdict:
        self._learn(arrival.port, message, arrival.now_boottime_s)
        if not message.asks or message.target == message.asker:
            return Drop(DropReason.NEIGHBOR_IGNORED)
        port = self.ports[arrival.port]
        is_gateway = message.target == port.gateway(message.version)
        if not is_gateway and not self._is_elsewhere(arrival, message.target):
            return Drop(DropReason.NEIGHBOR_IGNORED)
        self.events[PipelineEvent.ARP_ANSWERED if message.version == 4 else PipelineEvent.ND_ANSWERED] += 1
        payload = neighbor.answer(message, port.mac, is_gateway=is_gateway)
        ethernet = arrival.ethernet
        to = neighbor.ALL_NODES_MAC if message.probes else message.mac
        back = Ethernet(to, port.mac, ethernet.tag, ethernet.ether_type, payload)
        return Forward(arrival.port, back.frame())

    def _learn(self, port: int, message: neighbor.NeighborMessage, now_s: float) -> None:
        address, mac = message.speaks_of, message.mac
        if not address or not neighbor.is_unicast(mac) or not self._is_admitted(port, address):
            return
        known = self.neighbors.get((port, address))
        if known is None and not message.has_mac:
            return
        if known is None or known == mac or message.overrides:
            if message.confirms:
                self.confirmed_s[port, address] = now_s
            elif known != mac:
                self.confirmed_s.pop((port, address), None)
        else:
            self.confirmed_s.pop((port, address), None)
        if known == mac or (known is not None and not message.overrides):
            return
        of_port = [key for key in self.neighbors if key[0] == port]
        if known is None and len(of_port) >= NEIGHBORS_OF_PORT:
            del self.neighbors[of_port[0]]
            self.confirmed_s.pop(of_port[0], None)
            self.events[PipelineEvent.NEIGHBOR_EVICTED] += 1
        self.unanswered.pop((port, address), None)
        self.neighbors[port, address] = mac
        self.events[PipelineEvent.NEIGHBOR_LEARNT] += 1

    def _is_admitted(self, port: int, source: int) -> bool:
        return self.tables.look_up("source_guard", ingress_port=port, source=source) is not None

    def _is_elsewhere(self, arrival: Arrival, address: int) -> bool:
        """The VRF has `address` behind another port, so that the edge answers for it."""
        route = self.tables.look_up("route", vrf=arrival.vrf, destination=address)
        if route is None or route.name != "set_next_hop":
            return False
        hop = self.tables.look_up("next_hop", next_hop=route.params["next_hop"])
        return hop is not None and hop.params.get("port", arrival.port) != arrival.port

    def _to_gateway(self, arrival: Arrival, ip: Ip) -> Verdict:
        if not self._is_admitted(arrival.port, ip.source):
            return Drop(DropReason.SOURCE_NOT_ADMITTED)
        reply = icmp.echo_reply(ip)
        if reply is None:
            return Drop(DropReason.NOT_PERMITTED)
        self.events[PipelineEvent.ECHO_ANSWERED] += 1
        return Forward(arrival.port, arrival.ethernet.answer(self.ports[arrival.port].mac, reply))

    # Flows

    def _flow(self, arrival: Arrival, ip: Ip) -> Verdict:
        behind_cut = False
        transport = None if ip.fragment_offset else parse_transport(ip)
        if isinstance(transport, Drop):
            return transport
        if transport is None or ip.more_fragments:
            followed = self.fragments.follow(
                arrival.policy_class, arrival.entered_at, ip, transport, arrival.now_boottime_s
            )
            if isinstance(followed, Drop):
                return followed
            ip, transport, behind_cut = followed.ip, followed.transport, followed.behind_cut
        if ip.hop_limit <= 1:
            return self._refuse(arrival, ip, DropReason.HOP_LIMIT, IcmpError.HOP_LIMIT)
        if transport.l4_class == L4Class.ICMP_ERROR:
            forwarding_class = self._judge_error(arrival, ip)
        else:
            forwarding_class = self.flows.forwarding_class(arrival.whence, ip, transport, arrival.now_boottime_s)
        if isinstance(forwarding_class, Drop):
            return self._refuse(arrival, ip, forwarding_class.reason, IcmpError.PROHIBITED)
        self._permitted = forwarding_class
        return self._steer(arrival, ip, transport, forwarding_class, behind_cut=behind_cut)

    def _judge_error(self, arrival: Arrival, ip: Ip) -> int | Drop:
        """As a packet of the flow that it is about (RFC 5927)."""
        about = None if ip.is_fragment else icmp.answered_by(ip)
        if about is None or about.destination != ip.destination:
            return Drop(DropReason.ICMP_ERROR_REFUSED)
        is_gateways = arrival.decapsulated and ip.source == self._gateway_ahead(arrival.vrf, ip)
        if about.source != ip.source and not is_gateways:
            return Drop(DropReason.ICMP_ERROR_REFUSED)
        return self.flows.uncached_class(arrival.whence, about, len(ip.data), arrival.now_boottime_s)

    def _steer(
        self, arrival: Arrival, ip: Ip, transport: Transport, forwarding_class: int, *, behind_cut: bool = False
    ) -> Verdict:
        if self.flows.is_expired(forwarding_class, arrival.now_boottime_s):
            return self._refuse(arrival, ip, DropReason.LEASE_EXPIRED, IcmpError.PROHIBITED)
        steer = self.tables.look_up("steer", forwarding_class=forwarding_class)
        if steer is None:
            return Drop(DropReason.NO_STEERING)
        translation = Translation(self.tables, forwarding_class) if steer.name.startswith("translate") else None
        if "vrf" in steer.params:
            to = steer.params["vrf"], translation
            return self._deliver(arrival, ip, transport, forwarding_class, *to, behind_cut=behind_cut)
        if steer.name == "to_service":
            return self._to_service(arrival, ip, transport, forwarding_class, steer.params, behind_cut=behind_cut)
        liveness = self.tables.look_up("path_liveness", liveness_group=steer.params["liveness_group"])
        live = liveness.params["live"] if liveness else 0
        candidates = self.tables.candidates(steer.params["sr_policy"])
        alive = {slot: path for slot, path in candidates.items() if live >> slot & 1}
        if not alive:
            return self._refuse(arrival, ip, DropReason.NO_LIVE_PATH, IcmpError.NO_ROUTE)
        mtu = steer.params["inner_mtu"]
        if mtu and (behind_cut or len(ip.data) > mtu or (ip.version == 6 and mtu < IPV6_LEAST_MTU)):
            return self._exceed(arrival, ip, transport, forwarding_class, mtu)
        return self._encapsulate(arrival, ip, transport, steer.params, alive[min(alive)].params, translation)

    def _exceed(self, arrival: Arrival, ip: Ip, transport: Transport, forwarding_class: int, mtu: int) -> Verdict:
        """What lies before it does not take `ip`, or not before its first fragment."""
        if ip.version == 6 and mtu < IPV6_LEAST_MTU:
            return self._refuse(arrival, ip, DropReason.NO_IPV6, IcmpError.NO_ROUTE)
        fits = len(ip.data) <= mtu
        may_be_cut = ip.may_be_cut and transport.l4_class != L4Class.ICMP_ERROR
        if (fits or may_be_cut) and mtu >= CUT_SMALLEST_MTU and len(ip.data) <= CUT_LARGEST_PACKET:
            return self._cut(arrival, ip, transport, forwarding_class, mtu)
        return self._refuse(arrival, ip, DropReason.TOO_BIG, IcmpError.TOO_BIG, mtu)

    def _cut(self, arrival: Arrival, ip: Ip, transport: Transport, forwarding_class: int, mtu: int) -> Cut:
        """The packet was counted with its flow; its pieces are not."""
        self.events[PipelineEvent.CUT] += 1
        if ip.more_fragments and not ip.fragment_offset:
            self.fragments.mark_as_cut(arrival.policy_class, arrival.entered_at, ip, arrival.now_boottime_s)
        pieces, nobodys = [], replace(arrival, whence=replace(arrival.whence, port=0), is_piece=True)
        for piece in cut(ip, mtu):
            verdict = self._steer(nobodys, piece, transport, forwarding_class)
            assert isinstance(verdict, Forward | Drop | Punt), "a piece needs no cutting"
            self._count(verdict, ETHERNET_BYTES + len(piece.data))
            pieces.append(verdict)
        return Cut(tuple(pieces))

    def _encapsulate(
        self,
        arrival: Arrival,
        ip: Ip,
        transport: Transport,
        steer: Mapping[str, int],
        candidate: Mapping[str, int],
        translation: Translation | None,
    ) -> Verdict:
        clamped = self._clamped(ip, steer["inner_mtu"])
        self.events[PipelineEvent.ENCAPSULATED] += 1
        containers = tuple(candidate[f"container_{index}"] for index in range(candidate["last_container"] + 1))
        path = Path(candidate["source"], candidate["color"], containers, candidate["merge_bits"])
        inner = clamped.with_hop_limit(ip.hop_limit - 1)
        if translation:
            inner = translation.packet(inner, transport)
        outer = srv6.encapsulate(inner, path, steer["service_sid"], steer["dscp"], srv6.entropy(ip, transport))
        return self._send_outer(arrival, outer, candidate["first_hop"])

    def _clamped(self, ip: Ip, mtu: int) -> Ip:
        has_tcp = ip.protocol == PROTOCOL_TCP and not ip.fragment_offset and isinstance(parse_transport(ip), Transport)
        clamped = icmp.clamp_mss(ip, max(mtu - TCP_OVERHEAD[ip.version], 0)) if mtu and has_tcp else ip
        if clamped is not ip:
            self.events[PipelineEvent.MSS_CLAMPED] += 1
        return clamped

    def _refuse(self, arrival: Arrival, ip: Ip, reason: int, error: IcmpError, mtu: int = 0) -> Verdict:
        """Drops `ip`, and tells its sender where the RFCs and its network allow it."""
        if reason == DropReason.SOURCE_NOT_ADMITTED or arrival.is_piece or not icmp.may_be_told(ip):
            return Drop(reason)
        if arrival.decapsulated:
            return self._tell_beyond(arrival, ip, reason, error, mtu)
        if error is IcmpError.PROHIBITED and not arrival.rejects:
            return Drop(reason)
        if error is IcmpError.HOP_LIMIT and not self._is_admitted(arrival.port, ip.source):
            return Drop(reason)  # for all else the source was looked at before
        port = self.ports[arrival.port]
        gateway = port.gateway(ip.version)
        if not gateway:
            return Drop(reason)
        told = icmp.error(ip, error, mtu, gateway)
        return Forward(arrival.port, arrival.ethernet.answer(port.mac, told), reason)

    def _tell_beyond(self, arrival: Arrival, ip: Ip, reason: int, error: IcmpError, mtu: int) -> Verdict:
        """On the way that replies take.

        Inside one network it is said by the gateway; across networks in the name of the packet's destination, the only
        one that the terms let answer. Which hop a hop limit ends at is said inside a network only.
        """
        answer: int | Drop = arrival.answer_class
        if error is IcmpError.PROHIBITED or (error is IcmpError.HOP_LIMIT and answer):
            return Drop(reason)
        source = ip.destination if answer else self._gateway_ahead(arrival.vrf, ip)
        if not source:
            return Drop(reason)
        if not answer:
            back = FlowKey(arrival.policy_class, ip.destination, ip.source, ip.icmp_protocol, 0, 0, L4Class.ICMP_ERROR)
            answer = self.flows.resolve(back, arrival.whence, Asking(changes=False), arrival.now_boottime_s)
        if isinstance(answer, Drop) or self.flows.is_expired(answer, arrival.now_boottime_s):
            return Drop(reason)
        steer = self.tables.look_up("steer", forwarding_class=answer)
        if steer is None or "sr_policy" not in steer.params:
            return Drop(reason)
        told = parse_ip(ip.ether_type, icmp.error(ip, error, mtu, source))
        assert isinstance(told, Ip), "what we write is right"
        self.flows.count_class(answer, len(told.data))
        sent = self._steer(arrival, told, Transport(L4Class.ICMP_ERROR, 0, 0), answer)
        return Forward(sent.port, sent.frame, reason) if isinstance(sent, Forward) else Drop(reason)

    def _gateway_ahead(self, vrf: int, ip: Ip) -> int:
        """Where `ip` would have been delivered; 0: nowhere here."""
        route = self.tables.look_up("route", vrf=vrf, destination=ip.destination)
        if route is None or route.name != "set_next_hop":
            return 0
        hop = self.tables.look_up("next_hop", next_hop=route.params["next_hop"])
        port = self.ports.get(hop.params["port"]) if hop is not None and hop.name == "resolve" else None
        return port.gateway(ip.version) if port is not None else 0

    # Routes and next hops

    def _route(self, vrf: int, destination: int) -> int | Drop:
        route = self.tables.look_up("route", vrf=vrf, destination=destination)
        if route is None:
            return Drop(DropReason.NO_ROUTE)
        return Drop(route.params["reason"]) if route.name == "drop" else route.params["next_hop"]

    def _route_outer(self, arrival: Arrival, outer: Outer) -> Verdict:
        next_hop = self._route(FABRIC_VRF, outer.destination)
        return next_hop if isinstance(next_hop, Drop) else self._send_outer(arrival, outer, next_hop)

    def _send_outer(self, arrival: Arrival, outer: Outer, next_hop: int) -> Verdict:
        ethernet = arrival.ethernet
        mtu = self._mtu(next_hop)
        if mtu and outer.length > mtu:
            trimmed = srv6.trim(outer, mtu)
            verdict = trimmed if isinstance(trimmed, Drop) else self._send_outer(arrival, trimmed, next_hop)
            return replace(verdict, reason=DropReason.TOO_BIG) if isinstance(verdict, Drop | Forward) else verdict
        here = untagged(ethernet.destination, ethernet.source, ETHERTYPE_IPV6, outer.data)
        if outer.hop_limit <= 1:
            sent: bytes | Drop = Drop(DropReason.HOP_LIMIT)
        else:
            sent = outer.with_hop_limit(outer.hop_limit - 1).data
        return self._next_hop(
            next_hop, replace(arrival, whence=Whence(FABRIC_VRF, 0, 0)), 6, outer.destination, here, sent
        )

    def _mtu(self, next_hop: int | Drop) -> int:
        """Of the port that it leads to; 0: not known, or none."""
        hop = None if isinstance(next_hop, Drop) else self.tables.look_up("next_hop", next_hop=next_hop)
        port = self.ports.get(hop.params.get("port", 0)) if hop is not None and not hop.params.get("vlan") else None
        return port.mtu if port is not None else 0

    def _deliver(
        self,
        arrival: Arrival,
        ip: Ip,
        transport: Transport,
        forwarding_class: int,
        vrf: int,
        translation: Translation | None,
        *,
        behind_cut: bool,
    ) -> Verdict:
        destination = translation.destination(ip.destination) if translation else ip.destination
        next_hop = self._route(vrf, destination)
        mtu = self._mtu(next_hop)
        if mtu and (behind_cut or len(ip.data) > mtu):
            return self._exceed(arrival, ip, transport, forwarding_class, mtu)
        if self._is_given_up(next_hop, destination, arrival.now_boottime_s):
            return self._refuse(arrival, ip, DropReason.NEIGHBOR_UNKNOWN, IcmpError.HOST_UNREACHABLE)
        if next_hop == Drop(DropReason.NO_ROUTE):
            return self._refuse(arrival, ip, DropReason.NO_ROUTE, IcmpError.NO_ROUTE)
        if isinstance(next_hop, Drop):
            return next_hop
        ethernet = arrival.ethernet
        here = untagged(ethernet.destination, ethernet.source, ip.ether_type, ip.data)
        sent = ip.with_hop_limit(ip.hop_limit - 1)
        if translation:
            sent = translation.packet(sent, transport)
        return self._next_hop(next_hop, arrival, ip.version, destination, here, sent.data)

    def _to_service(
        self,
        arrival: Arrival,
        ip: Ip,
        transport: Transport,
        forwarding_class: int,
        steer: Mapping[str, int],
        *,
        behind_cut: bool,
    ) -> Verdict:
        """As it came, to a host that sends it back in at another port of ours."""
        next_hop, mtu = steer["ipv4_next_hop" if ip.version == 4 else "ipv6_next_hop"], steer["inner_mtu"]
        if mtu and (behind_cut or len(ip.data) > mtu or (ip.version == 6 and mtu < IPV6_LEAST_MTU)):
            return self._exceed(arrival, ip, transport, forwarding_class, mtu)
        ip, mtu = self._clamped(ip, mtu), self._mtu(next_hop)
        if mtu and (behind_cut or len(ip.data) > mtu):
            return self._exceed(arrival, ip, transport, forwarding_class, mtu)
        if self._is_given_up(next_hop, ip.destination, arrival.now_boottime_s):
            return self._refuse(arrival, ip, DropReason.NEIGHBOR_UNKNOWN, IcmpError.HOST_UNREACHABLE)
        here = untagged(arrival.ethernet.destination, arrival.ethernet.source, ip.ether_type, ip.data)
        sent = ip.with_hop_limit(ip.hop_limit - 1).data
        return self._next_hop(next_hop, arrival, ip.version, ip.destination, here, sent)

    def _is_given_up(self, next_hop: int | Drop, destination: int, now_s: float) -> bool:
        """Whether nobody has answered for an attached host for so long that its senders are told."""
        hop = None if isinstance(next_hop, Drop) else self.tables.look_up("next_hop", next_hop=next_hop)
        if (
            hop is None
            or not hop.name.startswith("resolve")
            or hop.params["vlan"]
            or hop.params["port"] not in self.ports
        ):
            return False
        host = hop.params["port"], hop.params.get("via", destination)
        if self._mac_of(*host):
            return False
        since_s, asked_s = self.unanswered.get(host, (now_s, now_s))
        if now_s - asked_s > UNANSWERED_REST_S:
            since_s = asked_s = now_s
        if now_s - since_s >= NEIGHBOR_WAIT_S and now_s - asked_s < NEIGHBOR_AGAIN_S:
            return True
        self.unanswered[host] = since_s, now_s
        return False

    def _mac_of(self, port: int, address: int) -> bytes | None:
        """As a controller says, or as was learnt."""
        said = self.tables.look_up("neighbor", port=port, address=address)
        return said.params["mac"].to_bytes(6) if said else self.neighbors.get((port, address))

    def _next_hop(
        self, index: int, arrival: Arrival, version: int, destination: int, here: bytes, sent: bytes | Drop
    ) -> Verdict:
        """`here` is the frame as it is before this hop, `sent` the IP packet after it."""
        hop = self.tables.look_up("next_hop", next_hop=index)
        if hop is None:
            return Drop(DropReason.NO_NEXT_HOP)
        if hop.name == "punt":
            return Punt(hop.params["reason"], here, arrival.vrf, arrival.answer_class)
        number = hop.params["port"]
        if hop.params["vlan"] or number not in self.ports:
            return Drop(DropReason.NO_NEXT_HOP)
        if isinstance(sent, Drop):
            return sent
        ether_type = ETHERTYPE_IPV4 if version == 4 else ETHERTYPE_IPV6
        source_mac = hop.params["source_mac"].to_bytes(6)
        if hop.name == "forward":
            return Forward(number, untagged(hop.params["destination_mac"].to_bytes(6), source_mac, ether_type, sent))
        destination = hop.params.get("via", destination)
        mac = self._mac_of(number, destination)
        if mac:
            return Forward(number, untagged(mac, source_mac, ether_type, sent))
        port = self.ports[number]
        gateway = port.gateway(version)
        if not gateway:
            return Drop(DropReason.NEIGHBOR_UNKNOWN)
        question = neighbor.ask(version, destination, port.mac, gateway)
        return Forward(number, question, DropReason.NEIGHBOR_UNKNOWN)


def _punt_key(ingress_class: int, ethernet: Ethernet) -> dict[str, int]:
    """Protocol and ICMP type are 0 unless the frame is plain IP."""
    protocol = icmp_type = 0
    data, ether_type = ethernet.payload, ethernet.ether_type
    if ether_type == ETHERTYPE_IPV4 and len(data) >= 20 and data[0] == 0x45:
        protocol = data[9]
        is_first = int.from_bytes(data[6:8]) & 0x1FFF == 0
        if protocol == PROTOCOL_ICMP and len(data) > 20 and is_first:
            icmp_type = data[20]
    elif ether_type == ETHERTYPE_IPV6 and len(data) >= 40 and data[0] >> 4 == 6:
        protocol = data[6]
        if protocol == PROTOCOL_ICMPV6 and len(data) > 40:
            icmp_type = data[40]
    return {
        "ingress_class": ingress_class,
        "ether_type": ether_type,
        "protocol": protocol,
        "icmp_type": icmp_type,
    }
