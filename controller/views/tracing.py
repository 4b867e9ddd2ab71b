"""What becomes of a packet: the reference pipeline over the entries that each node shall have, hop by hop.

Within one domain; where the packet leaves it, the trace carries the frame with which the next domain goes on. Hosts
are taken to answer ARP and ND, and tunnels to be up.
"""

import ipaddress
from collections.abc import Mapping

import msgspec

from controller.fulfillment import crossings
from controller.fulfillment.containers import Containers
from controller.fulfillment.numbering import address, sid_text
from controller.model.access import OURSELVES, Principal
from controller.model.entry import OwnedEntry
from controller.model.trace import Crossing, Hop, Onward, Probe, Step, Trace, Unknown, Verdict
from controller.reconcile.authority import visible
from controller.reconcile.state import State
from controller.views import entry_view
from controller.views.explain import entry_words, reason_words
from controller.views.probe import HOST_MAC, Sent, resolve
from dataplane.entry import FieldMatch, TableEntry
from dataplane.reasons import DropReason
from dataplane.reference import Cut, Drop, Forward, Pass, Pipeline, Port, Punt
from dataplane.reference.flow import DENIALS, Flows
from dataplane.reference.match import Action, Tables
from dataplane.reference.packet import Ip, parse_ethernet, parse_ip

MAX_HOPS = 64
_MACS = 12
"""Bytes of an Ethernet header before its type."""


def trace(state: State, asked: Probe | Crossing, now_s: float, by: Principal = OURSELVES) -> Trace | Unknown:
    """From a host of ours, or from a border; between what `by` may name."""
    if isinstance(asked, Crossing):
        border_port = state.fabric.border_ports.get(asked.border)
        if border_port is None:
            known = ", ".join(sorted(state.fabric.border_ports)) or "none"
            return Unknown(f"{state.own} has no border {asked.border} in use; there are: {known}")
        frame = bytes.fromhex(asked.frame)
        at = _Place(node=border_port.node, port=border_port.port, ingress=f"border {asked.border}")
        return _Tracer(state, now_s).run(f"a packet over {asked.border}", at, frame)
    sent = resolve(asked, visible(by, state.inventory, state.own), state.own)
    if isinstance(sent, Unknown):
        return sent
    return _from_host(state, sent, now_s)


def _from_host(state: State, sent: Sent, now_s: float) -> Trace:
    tracer = _Tracer(state, now_s)
    ports = tracer.ports(sent.host.node)
    gateway = ports[sent.host.port].mac if sent.host.port in ports else bytes(6)
    at = _Place(node=sent.host.node, port=sent.host.port, ingress=f"host {sent.host.name}")
    return tracer.run(str(sent), at, sent.frame(gateway))


class _Place(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    port: int
    ingress: str
    """In words."""


class _Recorder(Tables):
    """Remembers which entries were matched."""

    def __init__(self, entries: list[TableEntry]) -> None:
        super().__init__(entries)
        self.matched: list[Action] = []

    def look_up(self, table: str, **key: int) -> Action | None:
        action = super().look_up(table, **key)
        if action is not None:
            self.matched.append(action)
        return action

    def policies(self, now_s: float, **key: int) -> tuple[list[Action], Action | None]:
        """A packet that is traced asks: what permits replies only is left to the next."""
        says, ended = super().policies(now_s, **key)
        decides = next((action for action in says if action.name != "permit_reply"), None)
        if ended is not None and (decides is None or decides.name in DENIALS):
            decides = ended if decides is None or ended.entry.priority > decides.entry.priority else decides
        if decides is not None:
            self.matched.append(decides)
        return says, ended

    def candidates(self, sr_policy: int) -> dict[int, Action]:
        """The pipeline takes the first that lives; `path_liveness` was looked up just before."""
        candidates = super().candidates(sr_policy)
        last = self.matched[-1] if self.matched else None
        live = last.params["live"] if last is not None and last.name == "set_live" else 0
        alive = [slot for slot in candidates if live >> slot & 1]
        if alive:
            self.matched.append(candidates[min(alive)])
        return candidates


class _Tracer:
    def __init__(self, state: State, now_s: float) -> None:
        self._state = state
        self._now_s = now_s
        self._hops: list[Hop] = []

    def run(self, packet: str, at: _Place, frame: bytes) -> Trace:
        place: _Place | None = at
        for _ in range(MAX_HOPS):
            assert place is not None
            done, place, frame = self._hop(packet, place, frame)
            if done is not None:
                return done
        return self._end(packet, Verdict.DROPPED, f"it goes in circles: given up after {MAX_HOPS} hops")

    def _end(self, packet: str, verdict: Verdict, text: str, *, owner: str = "", onward: Onward | None = None) -> Trace:
        unsure = sorted({hop.node for hop in self._hops if not hop.confirmed})
        if unsure:
            text += f" (not confirmed by {', '.join(unsure)})"
        return Trace(packet=packet, hops=tuple(self._hops), verdict=verdict, text=text, owner=owner, onward=onward)

    def _hop(self, packet: str, at: _Place, frame: bytes) -> tuple[Trace | None, _Place | None, bytes]:
        """The end, or where it goes on, with the frame."""
        if at.node in self._state.fabric.switches:
            return self._crossed(packet, at, frame)
        names, tables = self._tables(at.node)
        pipeline = Pipeline(tables, self.ports(at.node))
        pipeline.flows = Flows(tables, cache=False)
        pipeline.neighbors = self._neighbors(at.node)
        verdict = pipeline.run(at.port, frame, self._now_s - self._boot_epoch_s(at.node))
        if isinstance(verdict, Cut):
            verdict = verdict.pieces[0]  # the others go the same way
        matched = [names[id(action.entry)] for action in tables.matched]
        match verdict:
            case Forward(port=port, frame=sent, reason=DropReason.NONE):
                return self._forwarded(packet, at, port, sent, matched)
            case Forward(reason=reason) | Drop(reason=reason):
                return self._dropped(packet, at, reason, matched), None, b""
            case Punt(reason=reason):
                self._add(at, matched, f"given to the controller, reason {reason}")
                return self._end(packet, Verdict.DROPPED, f"at {at.node}: given to the controller"), None, b""
            case Pass():
                why = "taken by the node's own kernel" if at.port in pipeline.ports else "it has no such port (yet)"
                self._add(at, matched, why)
                return self._end(packet, Verdict.DROPPED, f"at {at.node} port {at.port}: {why}"), None, b""

    def _crossed(self, packet: str, at: _Place, frame: bytes) -> tuple[Trace | None, _Place | None, bytes]:
        """The same at an OpenFlow switch."""
        named = {entry: name for name, _, entry in entry_view.named_entries(self._state, at.node)}
        entry = crossings.look_up(named, at.port, frame)
        matched = [(named[entry], entry)] if entry is not None else []
        if entry is not None and entry.action == "forward":
            return self._forwarded(packet, at, *crossings.forwarded(entry, frame), matched)
        why = "given to the controller" if entry is not None and entry.action == "punt" else "no entry forwards it"
        self._add(at, matched, f"dropped: {why}")
        return self._end(packet, Verdict.DROPPED, f"at {at.node}: {why}"), None, b""

    def _add(self, at: _Place, matched: list[tuple[str, OwnedEntry]], result: str) -> None:
        by_table = {entry.table: entry for _, entry in matched}
        segments, containers = _sent(by_table) if "sr_policy" in by_table else ((), ())
        hop = Hop(
            domain=self._state.own,
            node=at.node,
            ingress=at.ingress,
            confirmed=self._state.nodes[at.node].settled,
            steps=tuple(Step(entry=name, text=entry_words(entry), owner=entry.owner) for name, entry in matched),
            segments=segments,
            containers=containers,
            result=result,
        )
        self._hops.append(hop)

    def _dropped(self, packet: str, at: _Place, reason: int, matched: list[tuple[str, OwnedEntry]]) -> Trace:
        """By the last entry that was matched, if it says so; else because there was none."""
        word = reason_words(reason)
        _, last = matched[-1] if matched else ("", None)
        said = last is not None and (last.action in DENIALS or (last.table == "lease" and word == "lease_expired"))
        owner = last.owner if last is not None and said else ""
        self._add(at, matched, f"dropped: {word}")
        because = f"says {owner}" if owner else _WHY.get(reason, "the packet is at fault")
        return self._end(packet, Verdict.DROPPED, f"at {at.node}: {word}, {because}", owner=owner)

    def _forwarded(
        self, packet: str, at: _Place, port: int, sent: bytes, matched: list[tuple[str, OwnedEntry]]
    ) -> tuple[Trace | None, _Place | None, bytes]:
        state = self._state
        for name, border_port in state.fabric.border_ports.items():
            if (border_port.node, border_port.port) == (at.node, port):
                sid = str(ipaddress.IPv6Address(sent[38:54]))
                text = f"into the tunnel of {name} to domain {border_port.domain}, SID {sid}"
                self._add(at, matched, text)
                onward = Onward(domain=border_port.domain, border=name, sid=sid, frame=sent.hex())
                return self._end(packet, Verdict.LEFT, f"at {at.node}: {text}", onward=onward), None, b""
        ends = {
            (end.node, end.port): (link, other)
            for link in state.inventory.links.values()
            if link.b is not None
            for end, other in ((link.a, link.b), (link.b, link.a))
        }
        if (at.node, port) in ends:
            link, other = ends[at.node, port]
            self._add(at, matched, f"over link {link.name} to {other.node}")
            return None, _Place(node=other.node, port=other.port, ingress=f"link {link.name}"), sent
        matched_way = next((entry.action for _, entry in matched if entry.table == "steer"), "")
        if not matched_way:
            self._add(at, matched, "answered by the node, which is the gateway")
            return self._end(packet, Verdict.DELIVERED, f"to the gateway, which {at.node} is"), None, b""
        through = self._service(at.node, port) if matched_way == "to_service" else None
        if through is not None:
            service, back_by = through
            self._add(at, matched, f"into service {service}, which is taken to give it back by port {back_by}")
            here = self.ports(at.node).get(back_by)
            back = _given_back(sent, here.mac if here is not None else bytes(6))
            return None, _Place(node=at.node, port=back_by, ingress=f"service {service}"), back
        host = self._host(at.node, port, sent)
        self._add(at, matched, f"delivered to {host}")
        return self._end(packet, Verdict.DELIVERED, f"to {host}, at {at.node} port {port}"), None, b""

    def _service(self, node: str, port: int) -> tuple[str, int] | None:
        """The service behind a port, and its other port."""
        for network in self._state.inventory.networks.values():
            ports = {each.name: (each.node, each.port) for each in network.attachments}
            for service in self._state.inventory.services.values():
                if service.through is None or service.name.rpartition("/")[0] != network.name:
                    continue
                ends = [ports[each] for each in service.through if each in ports]
                if (node, port) in ends and len(ends) == 2:
                    return service.name, next(other for end, other in ends if (end, other) != (node, port))
        return None

    def _host(self, node: str, port: int, sent: bytes) -> str:
        """By the address; an attachment may have several."""
        ethernet = parse_ethernet(sent)
        ip = None if isinstance(ethernet, Drop) else parse_ip(ethernet.ether_type, ethernet.payload)
        destination = ip.destination if isinstance(ip, Ip) else 0
        hosts = [
            (destination in map(address, attachment.addresses), f"{network.name}/{attachment.name}")
            for network in self._state.inventory.networks.values()
            for attachment in network.attachments
            if (attachment.node, attachment.port) == (node, port)
        ]
        return max(hosts)[1] if hosts else f"port {port}"

    # ---- a node as the pipeline sees it

    def _tables(self, node: str) -> tuple[dict[int, tuple[str, OwnedEntry]], _Recorder]:
        """Entry of the pipeline, by identity -> name and entry of ours."""
        names: dict[int, tuple[str, OwnedEntry]] = {}
        entries: list[TableEntry] = []
        for name, _, entry in entry_view.named_entries(self._state, node):
            match = tuple(
                FieldMatch(
                    field_match.field, field_match.value, field_match.mask, field_match.prefix_length, field_match.high
                )
                for field_match in entry.match
            )
            entries.append(TableEntry(entry.table, match, entry.action, entry.params, entry.priority))
            names[id(entries[-1])] = name, entry
        return names, _Recorder(entries)

    def ports(self, node: str) -> dict[int, Port]:
        """With the MACs that the node told, and the gateway addresses and tunnels that it shall have."""
        description = self._state.descriptions.get(node)
        standing = self._state.nodes[node]
        host = standing.state.host if standing.state is not None else None
        if description is None or host is None:
            return {}
        gateways = {gateway.port: gateway for gateway in host.gateways}
        tunnels = {tunnel.border for tunnel in host.tunnels}
        ports = {border.port: Port(_mac(border.mac)) for border in description.borders if border.name in tunnels}
        for port in description.ports:
            gateway = gateways.get(port.number)
            ipv4, ipv6 = (gateway.ipv4, gateway.ipv6) if gateway is not None else ("", "")
            ports[port.number] = Port(_mac(port.mac), address(ipv4) if ipv4 else 0, address(ipv6) if ipv6 else 0)
        if not description.tells_ports:
            macs = self._state.fabric.macs
            ports |= {number: Port(macs[name, number].to_bytes(6)) for name, number in macs if name == node}
        return ports

    def _neighbors(self, node: str) -> dict[tuple[int, int], bytes]:
        return {
            (attachment.port, address(text)): HOST_MAC
            for network in self._state.inventory.networks.values()
            for attachment in network.attachments
            if attachment.node == node
            for text in attachment.addresses
        }

    def _boot_epoch_s(self, node: str) -> int:
        description = self._state.descriptions.get(node)
        return description.boot_epoch_s if description is not None else 0


_WHY: dict[int, str] = {
    DropReason.UNKNOWN_ATTACHMENT: "the port belongs to no network",
    DropReason.SID_NOT_ADMITTED: "no entry takes that SID from there",
    DropReason.SID_GONE: "the node has no such SID, or no more",
    DropReason.NOT_PERMITTED: "no entry permits it",
    DropReason.NO_STEERING: "no entry says how it goes on",
    DropReason.NO_LIVE_PATH: "no candidate path is up",
    DropReason.NO_ROUTE: "no entry says where it goes",
    DropReason.NO_NEXT_HOP: "its next hop is not there",
    DropReason.SOURCE_NOT_ADMITTED: "the source address does not belong to that port",
    DropReason.NO_IPV6: "the path takes no packets of 1280 octets, which IPv6 needs",
    DropReason.NEIGHBOR_UNKNOWN: "no attached host has that address",
}


def _sent(matched: Mapping[str, OwnedEntry]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Segments, first one first, and the containers that they are sent in."""
    service_sid = dict(matched["steer"].params)["service_sid"]
    path = dict(matched["sr_policy"].params)
    values = tuple(path[f"container_{place}"] for place in range(path["last_container"] + 1))
    containers = Containers(values=values, merge_bits=path["merge_bits"])
    return containers.sids(service_sid), tuple(map(sid_text, containers.sent(service_sid)))


def _given_back(frame: bytes, mac: bytes) -> bytes:
    """As a service that sends on what it gets does: one hop more, to the node's MAC."""
    ethernet = parse_ethernet(frame)
    ip = ethernet if isinstance(ethernet, Drop) else parse_ip(ethernet.ether_type, ethernet.payload)
    assert isinstance(ip, Ip), "what the pipeline sent is right"
    return mac + HOST_MAC + frame[_MACS : _MACS + 2] + ip.with_hop_limit(ip.hop_limit - 1).data


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", "")) if text else bytes(6)
