"""The tunnels of a node: the desired ones in, what was different out.

Order in which a tunnel is made: what the kernel may forward, the veth pair, the WireGuard device, the ways between
them, and the peer last: nothing comes in before all of it is in place. Removal goes the other way.
"""

import ipaddress
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from dataplane import addressing
from dataplane.errors import NodeRefused, RequestInvalid
from dataplane.host.firewall import Firewall, Way
from dataplane.host.interface import read_interface
from dataplane.host_api import BorderConfig, BorderStatus, PartRefused, Tunnel
from dataplane.wireguard.device import DeviceConfig, DeviceState, KeyStore, Peer, WireGuard, public_key
from dataplane.wireguard.tunnel_link import (
    TunnelLink,
    remove_pair_and_rules,
    sync_pair,
    sync_routes,
    sync_wireguard_device,
)
from dataplane.wireguard.tunnel_peer import key_objection, place_objection, reachable

START_S = 0.7
"""How long a sync waits for WireGuard to start: what takes longer is refused for now, and found by the next one."""
DeviceStates: TypeAlias = Mapping[str, DeviceState | None]
"""By border; None: nobody serves it, or does not answer."""
_FORWARDING = Path("/proc/sys/net/ipv6/conf/all/forwarding")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Border:
    link: TunnelLink
    private_key: str

    @property
    def config(self) -> BorderConfig:
        return self.link.border

    @property
    def reaches(self) -> tuple[addressing.Network, ...]:
        own = addressing.interface(self.config.address)
        return reachable(own, map(addressing.prefix, self.config.peers))

    def way(self, peer: Peer) -> Way:
        return Way(
            devices=self.link.devices,
            underlay=self.config.interface,
            listen_port=self.config.listen_port,
            peer=addressing.endpoint(peer.endpoint)[0],
        )


class _Attempt:
    """A sync: each of its parts fails alone."""

    def __init__(self, reasons: dict[str, str]) -> None:
        self.changes: list[str] = []
        self.reasons = reasons
        """Border -> why it cannot be as it shall."""

    @contextmanager
    def at(self, *borders: str) -> Iterator[None]:
        """What goes wrong inside is these borders' fault, and the end of what is done for them."""
        try:
            yield
        except (NetlinkError, OSError, NodeRefused) as error:
            told = str(error) if isinstance(error, NodeRefused) else f"the kernel refused a part of it: {error}"
            for border in borders:
                self.reasons.setdefault(border, f"tunnel {border}: {told}")

    def left(self, borders: Iterable[str]) -> list[str]:
        return [border for border in borders if border not in self.reasons]

    def refusals(self) -> tuple[PartRefused, ...]:
        return tuple(PartRefused(part=f"tunnels/{name}", reason=why) for name, why in sorted(self.reasons.items()))


class Tunnels:
    """Runs in the node's network namespace. Methods take milliseconds and block: call them from a thread."""

    def __init__(self, node: str, borders: Sequence[BorderConfig], wireguard: WireGuard, state_dir: Path) -> None:
        """Makes the keys of borders that have none. `config` has seen that they are not in each other's way."""
        keys = KeyStore(state_dir / "keys")
        self._wireguard = wireguard
        self._firewall = Firewall(state_dir)
        self._ours: frozenset[addressing.Address] = frozenset(
            addressing.interface(border.address).ip for border in borders
        )
        """Addresses of this node, as last seen."""
        self._forwarding_before = state_dir / "forwarding-before"
        self._borders = {
            border.name: _Border(link=TunnelLink(node, border), private_key=keys.private_key(border.name))
            for border in borders
        }

    @property
    def software(self) -> str:
        return self._wireguard.software

    def sync(self, desired: Iterable[Tunnel]) -> tuple[tuple[str, ...], tuple[PartRefused, ...]]:
        """Makes the node have exactly these tunnels; returns what was different, in words, a line a tunnel, and those
        that cannot be as they shall. Of these stays what is there; no other one waits for them."""
        with closing(IPRoute()) as netlink:
            self._ours = _own_addresses(netlink)
            wanted, refused = self._checked(desired)
            attempt = _Attempt(refused)
            for name, border in self._borders.items():
                if name not in wanted and name not in refused:
                    with attempt.at(name):
                        if self._remove(netlink, border):
                            attempt.changes.append(f"removed tunnel {name}")
            with attempt.at(*wanted):
                ways = self._ways(refused) + [self._borders[name].way(peer) for name, peer in wanted.items()]
                if self._firewall.sync(ways):
                    attempt.changes.append("set what the kernel may forward")
                attempt.changes += self._sync_forwarding(bool(ways))
            until = time.monotonic() + START_S
            for name in attempt.left(wanted):
                with attempt.at(name):
                    device = self._borders[name].link.wireguard
                    if self._served(device) is None:
                        self._wireguard.begin(device)
            for name in attempt.left(wanted):
                with attempt.at(name):
                    attempt.changes += self._sync_tunnel(netlink, self._borders[name], wanted[name], until)
        return tuple(attempt.changes), attempt.refusals()

    def guard(self) -> bool:
        """Limits what the kernel may forward to the tunnels that exist; returns whether it was not so."""
        try:
            return self._firewall.sync(self._ways(self._borders))
        except OSError as error:
            raise NodeRefused(f"limiting what the kernel may forward failed: {error}") from error

    def _ways(self, names: Iterable[str]) -> list[Way]:
        """Of tunnels that are there, as they are."""
        borders = [self._borders[name] for name in names if name in self._borders]
        return [
            border.way(peer)
            for border in borders
            if read_interface(border.link.pipeline)
            for peer in getattr(self._seen(border.link.wireguard), "peers", ())
            if peer.endpoint
        ]

    def read(self) -> DeviceStates:
        """What WireGuard of each border is now: it says nothing by itself."""
        return {name: self._seen(border.link.wireguard) for name, border in self._borders.items()}

    def are_as(self, desired: Iterable[Tunnel], states: DeviceStates) -> bool:
        """Whether WireGuard of each of them, which `sync` has made, is still there and has its peer."""
        for tunnel in desired:
            border, state = self._borders[tunnel.border], states[tunnel.border]
            if state is None or not state.matches(_device_config(border, _peer(tunnel, tunnel.border))):
                return False
        return True

    def actual(self, states: DeviceStates) -> tuple[Tunnel, ...]:
        """The tunnels that the node has."""
        tunnels = []
        for name, state in states.items():
            for peer in state.peers if state else ():
                tunnel = Tunnel(
                    border=name,
                    peer_public_key=peer.public_key,
                    peer_endpoint=peer.endpoint,
                    allowed_ips=peer.allowed_ips,
                    persistent_keepalive_s=peer.persistent_keepalive_s,
                )
                tunnels.append(tunnel)
        return tuple(sorted(tunnels, key=lambda tunnel: tunnel.border))

    def status(self, states: DeviceStates) -> tuple[BorderStatus, ...]:
        return tuple(self._status(border, states[name]) for name, border in self._borders.items())

    def ports(self) -> tuple[tuple[int, str], ...]:
        """(P4Runtime port, interface on the pipeline's side) of each tunnel that exists now."""
        return tuple((link.border.port, link.pipeline) for link in self.links())

    def links(self) -> tuple[TunnelLink, ...]:
        """Of the tunnels that exist now."""
        links = [border.link for border in self._borders.values()]
        return tuple(link for link in links if read_interface(link.pipeline))

    def start_handshakes(self) -> bool:
        """Begins anew with neighbours that never answered; returns whether there was one (see WireGuard)."""
        devices = [border.link.wireguard for border in self._borders.values()]
        waiting = [self._wireguard.start_handshakes(device) for device in devices if self._seen(device)]
        return any(waiting)

    def remove_all(self) -> tuple[str, ...]:
        """Nothing of any tunnel is left afterwards but the keys, and the underlay's address, which is the link's.

        Raises NodeRefused.
        """
        changes, refused = self.sync(())
        if refused:
            raise NodeRefused("; ".join(each.reason for each in refused))
        if self._firewall.remove():
            changes += ("removed what the kernel may forward",)
        return changes

    def _checked(self, desired: Iterable[Tunnel]) -> tuple[dict[str, Peer], dict[str, str]]:
        """The peer of each border, and why others cannot be."""
        wanted: dict[str, Peer] = {}
        refused: dict[str, str] = {}
        for tunnel in desired:
            name, where = tunnel.border, f"tunnel {tunnel.border}"
            if name not in self._borders:
                refused[name] = f"{where}: this node has no such border, only {sorted(self._borders)}"
            elif name in wanted:
                refused[name] = f"{where} is named twice"
            elif name not in refused:
                try:
                    wanted[name] = self._peer(tunnel, where)
                except RequestInvalid as error:
                    refused[name] = str(error)
        refused |= self._shared(wanted)
        return {name: peer for name, peer in wanted.items() if name not in refused}, refused

    def _peer(self, tunnel: Tunnel, where: str) -> Peer:
        """Raises RequestInvalid."""
        peer = _peer(tunnel, where)
        border = self._borders[tunnel.border]
        objection = key_objection(addressing.key(peer.public_key))
        if peer.public_key in {public_key(border.private_key) for border in self._borders.values()}:
            objection = "the key is our own"
        objection = objection or place_objection(addressing.endpoint(peer.endpoint)[0], border.reaches, self._ours)
        if objection:
            raise RequestInvalid(f"{where}: the neighbour's end: {objection}")
        return peer

    def _shared(self, wanted: dict[str, Peer]) -> dict[str, str]:
        """Borders whose peer is another border's too, by its key or its place: who has it keeps it."""
        there = {tunnel.border: (tunnel.peer_public_key, tunnel.peer_endpoint) for tunnel in self.actual(self.read())}
        holders: dict[str, str] = {}
        refused = {}
        for name, peer in sorted(
            wanted.items(), key=lambda item: (there.get(item[0]) != (item[1].public_key, item[1].endpoint), item[0])
        ):
            for value, what in ((peer.public_key, "key"), (peer.endpoint, "endpoint")):
                if (holder := holders.setdefault(value, name)) != name:
                    refused[name] = f"tunnel {name}: the neighbour's end: its {what} is that of tunnel {holder}"
        return refused

    def _sync_tunnel(self, netlink: IPRoute, border: _Border, peer: Peer, until: float) -> tuple[str, ...]:
        """`until`: when it has waited enough for WireGuard, by the monotonic clock."""
        link, name = border.link, border.config.name
        config = _device_config(border, peer)
        existed = read_interface(link.pipeline) is not None
        repairs = _sync_underlay(netlink, border.config)
        repairs += sync_pair(netlink, link)
        state = self._served(link.wireguard)
        if state is None:
            self._wireguard.create(link.wireguard, max(0.0, until - time.monotonic()))
            repairs += (f"started WireGuard for {link.wireguard}",)
        repairs += sync_wireguard_device(netlink, link)
        repairs += sync_routes(netlink, link)
        if state is None or not state.matches(config):
            self._wireguard.configure(link.wireguard, config)
            repairs += (f"configured {link.wireguard} for peer {peer.public_key} at {peer.endpoint}",)
        if not existed:
            return (f"created tunnel {name} to {peer.endpoint}",)
        return tuple(f"tunnel {name}: {repair}" for repair in repairs)

    def _served(self, device: str) -> DeviceState | None:
        """State of a device that both its interface and whoever serves it are there for."""
        return self._wireguard.read(device) if read_interface(device) else None

    def _seen(self, device: str) -> DeviceState | None:
        """The same, to be told: why one does not answer is said by `sync`."""
        try:
            return self._served(device)
        except NodeRefused:
            return None

    def _remove(self, netlink: IPRoute, border: _Border) -> bool:
        device = border.link.wireguard
        there = read_interface(device) is not None
        self._wireguard.remove(device)
        return bool(remove_pair_and_rules(netlink, border.link)) or there

    def _sync_forwarding(self, needed: bool) -> list[str]:
        """IPv6 forwarding of the kernel, on while there are tunnels, then as it was before."""
        is_on = _FORWARDING.read_text().strip() == "1"
        if needed and not is_on:
            self._forwarding_before.write_text("0")
            _FORWARDING.write_text("1")
            return ["turned IPv6 forwarding on (nftables table `netstitch` drops all but tunnels)"]
        if not needed and self._forwarding_before.exists():
            self._forwarding_before.unlink(missing_ok=True)
            if is_on:
                _FORWARDING.write_text("0")
                return ["turned IPv6 forwarding off, as it was"]
        return []

    def _status(self, border: _Border, state: DeviceState | None) -> BorderStatus:
        link, config = border.link, border.config
        traffic = state.traffic[0] if state and state.traffic else None
        underlay_address = addressing.interface(config.address).ip
        underlay = read_interface(config.interface)
        return BorderStatus(
            name=config.name,
            port=config.port,
            mac=link.pipeline_mac,
            kernel_mac=link.kernel_mac,
            carrier=underlay is not None and underlay.carrier,
            public_key=public_key(border.private_key),
            endpoint=addressing.write_endpoint(underlay_address, config.listen_port),
            mtu=link.mtu,
            reaches=tuple(map(str, border.reaches)),
            up=bool(state and state.peers and read_interface(link.pipeline)),
            latest_handshake_s=traffic.latest_handshake_s if traffic else 0.0,
            received_bytes=traffic.received_bytes if traffic else 0,
            sent_bytes=traffic.sent_bytes if traffic else 0,
        )


def _device_config(border: _Border, peer: Peer) -> DeviceConfig:
    return DeviceConfig(private_key=border.private_key, listen_port=border.config.listen_port, peers=(peer,))


def _sync_underlay(netlink: IPRoute, border: BorderConfig) -> tuple[str, ...]:
    """The address of this end on the underlay."""
    interface = read_interface(border.interface)
    if interface is None:
        raise NodeRefused(f"border {border.name}: there is no interface {border.interface} on this node")
    ours = addressing.interface(border.address)
    family = socket.AF_INET if ours.version == 4 else socket.AF_INET6
    there = [entry.get("IFA_ADDRESS") for entry in netlink.get_addr(family=family, index=interface.index)]
    if str(ours.ip) in there:
        return ()
    netlink.addr("add", index=interface.index, address=str(ours.ip), prefixlen=ours.network.prefixlen)
    return (f"set address {ours} on {border.interface}",)


def _own_addresses(netlink: IPRoute) -> frozenset[addressing.Address]:
    """All that this node has."""
    return frozenset(ipaddress.ip_address(entry.get("IFA_ADDRESS")) for entry in netlink.get_addr())


def _peer(tunnel: Tunnel, where: str) -> Peer:
    """Texts are canonical, so that they compare equal with what WireGuard says."""
    try:
        addressing.key(tunnel.peer_public_key)
    except ValueError as error:
        raise RequestInvalid(f"{where}: peer_public_key is no base64 of 32 bytes: {error}") from error
    try:
        addressing.endpoint(tunnel.peer_endpoint)
    except ValueError as error:
        raise RequestInvalid(f"{where}: peer_endpoint {error}") from error
    try:
        for prefix in tunnel.allowed_ips:
            addressing.prefix(prefix)
    except ValueError as error:
        raise RequestInvalid(f"{where}: allowed_ips: {error}") from error
    if not 0 <= tunnel.persistent_keepalive_s < 65536:
        raise RequestInvalid(f"{where}: persistent_keepalive_s {tunnel.persistent_keepalive_s} is not in 0..65535")
    return Peer(
        public_key=tunnel.peer_public_key,
        endpoint=tunnel.peer_endpoint,
        allowed_ips=tuple(sorted(tunnel.allowed_ips)),
        persistent_keepalive_s=tunnel.persistent_keepalive_s,
    )
