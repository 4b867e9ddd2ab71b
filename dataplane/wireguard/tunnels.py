"""The tunnels of a node: the desired ones in, what was different out.

Order in which a tunnel is made: what the kernel may forward, the veth pair, the WireGuard device, the ways between
them, and the peer last: nothing comes in before all of it is in place. Removal goes the other way.

While keys are renewed a border has two devices. What leaves takes the newer as soon as it has shaken hands: then the
neighbour takes what comes out of it. The older one takes what the neighbour still sends by it, until it is not wanted.
"""

import ipaddress
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
from dataplane.host_api import BorderConfig, BorderStatus, PartRefused, Tunnel, TunnelKeys
from dataplane.wireguard.device import DeviceConfig, DeviceState, KeyStore, Peer, WireGuard, public_key
from dataplane.wireguard.renewed_keys import SLOTS, RenewedKeys, RenewedKeyStore, slot
from dataplane.wireguard.tunnel_link import (
    TunnelLink,
    remove_pair_and_rules,
    set_way_out,
    sync_pair,
    sync_ways_in,
    sync_wireguard_device,
    way_out,
)
from dataplane.wireguard.tunnel_peer import key_objection, place_objection, reachable

START_S = 0.7
"""How long a sync waits for WireGuard to start: what takes longer is refused for now, and found by the next one."""
DeviceStates: TypeAlias = Mapping[str, DeviceState | None]
"""By WireGuard device; None: nobody serves it, or does not answer."""
_FORWARDING = Path("/proc/sys/net/ipv6/conf/all/forwarding")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Border:
    link: TunnelLink
    private_key: str
    """Of epoch 0."""

    @property
    def config(self) -> BorderConfig:
        return self.link.border

    @property
    def reaches(self) -> tuple[addressing.Network, ...]:
        own = addressing.interface(self.config.address)
        return reachable(own, map(addressing.prefix, self.config.peers))

    @property
    def listen_ports(self) -> tuple[int, int]:
        """Of the WireGuard devices."""
        return self.config.listen_port, self.config.second_listen_port

    def endpoint(self, slot: int) -> str:
        return addressing.write_endpoint(addressing.interface(self.config.address).ip, self.listen_ports[slot])

    def way(self, device: str, peer: Peer) -> Way:
        return Way(
            devices=(device, self.link.kernel, self.link.pipeline),
            underlay=self.config.interface,
            listen_port=self.listen_ports[self.link.wireguards.index(device)],
            peer=addressing.endpoint(peer.endpoint)[0],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Device:
    """A WireGuard device as it shall be."""

    epoch: int
    name: str
    config: DeviceConfig

    @property
    def peer(self) -> Peer:
        return self.config.peers[0]


_Wanted: TypeAlias = Mapping[str, tuple[_Device, ...]]
"""By border: the older epoch first, which is the one in use."""


class _Attempt:
    """A sync: each of its parts fails alone."""

    def __init__(self, reasons: dict[str, str]) -> None:
        self.changes: list[str] = []
        self.reasons = reasons
        """Border, or with a slash the epoch that is to come there -> why it cannot be as it shall."""

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
        self._renewed = RenewedKeyStore(state_dir / "keys", [border.name for border in borders])
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
        self._sends: dict[str, str] = {}
        """By border: the WireGuard device that takes what leaves, as last set or seen."""

    @property
    def software(self) -> str:
        return self._wireguard.software

    def sync(self, desired: Iterable[Tunnel]) -> tuple[tuple[str, ...], tuple[PartRefused, ...]]:
        """Makes the node have exactly these tunnels; returns what was different, in words, a line a tunnel, and those
        that cannot be as they shall. Of these stays what is there; no other one waits for them."""
        desired = tuple(desired)
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
                ways = self._ways(self._borders, but=wanted) + [
                    self._borders[name].way(device.name, device.peer)
                    for name, devices in wanted.items()
                    for device in devices
                ]
                if self._firewall.sync(ways):
                    attempt.changes.append("set what the kernel may forward")
                attempt.changes += self._sync_forwarding(bool(ways))
            until = time.monotonic() + START_S
            for name in attempt.left(wanted):
                for device in wanted[name]:
                    with attempt.at(_part(wanted[name], name, device)):
                        if self._served(device.name) is None:
                            self._wireguard.begin(device.name)
            for name in attempt.left(wanted):
                self._sync_tunnel(netlink, self._borders[name], wanted[name], until, attempt)
            for name in attempt.left(wanted):
                with attempt.at(name):  # keys that are not wanted any more go last
                    self._renewed.keep(name, {tunnel.epoch for tunnel in desired if tunnel.border == name})
        return tuple(attempt.changes), attempt.refusals()

    def guard(self) -> bool:
        """Limits what the kernel may forward to the tunnels that exist; returns whether it was not so."""
        try:
            return self._firewall.sync(self._ways(self._borders))
        except OSError as error:
            raise NodeRefused(f"limiting what the kernel may forward failed: {error}") from error

    def _ways(self, names: Iterable[str], but: Collection[str] = ()) -> list[Way]:
        """Of tunnels that are there, as they are."""
        borders = [self._borders[name] for name in names if name not in but]
        return [
            border.way(device, peer)
            for border in borders
            if read_interface(border.link.pipeline)
            for device in border.link.wireguards
            for peer in getattr(self._seen(device), "peers", ())
            if peer.endpoint
        ]

    def read(self) -> DeviceStates:
        """What each WireGuard device is now: it says nothing by itself."""
        return {device: self._seen(device) for border in self._borders.values() for device in border.link.wireguards}

    def are_as(self, desired: Iterable[Tunnel], states: DeviceStates) -> bool:
        """Whether WireGuard of each of them, which `sync` has made, is still there and has its peer, and what leaves
        takes the newest that has shaken hands."""
        wanted, refused = self._checked(desired)
        if refused:
            return False
        for name, devices in wanted.items():
            if any((state := states[device.name]) is None or not state.matches(device.config) for device in devices):
                return False
            if self._sends.get(name) != _newest([device.name for device in devices], states):
                return False
        return True

    def actual(self, states: DeviceStates) -> tuple[Tunnel, ...]:
        """The tunnels that the node has."""
        tunnels = []
        for name, border in self._borders.items():
            is_there = read_interface(border.link.pipeline) is not None
            for number, device in enumerate(border.link.wireguards):
                state, keys = states[device], self._renewed.of_slot(name, number)
                peers = state.peers if state is not None else ()
                is_renewed = keys is not None and state is not None and state.public_key == keys.public_key
                tunnels += [_tunnel(name, peer, keys if is_renewed else None) for peer in peers]
                if is_there and keys is not None and not is_renewed:
                    tunnels.append(_begun(name, keys.epoch))
        return tuple(sorted(tunnels, key=lambda tunnel: (tunnel.border, tunnel.epoch)))

    def status(self, states: DeviceStates) -> tuple[BorderStatus, ...]:
        return tuple(self._status(border, states) for border in self._borders.values())

    def ports(self) -> tuple[tuple[int, str], ...]:
        """(P4Runtime port, interface on the pipeline's side) of each tunnel that exists now."""
        return tuple((link.border.port, link.pipeline) for link in self.links())

    def links(self) -> tuple[TunnelLink, ...]:
        """Of the tunnels that exist now."""
        links = [border.link for border in self._borders.values()]
        return tuple(link for link in links if read_interface(link.pipeline))

    def start_handshakes(self) -> bool:
        """Begins anew with neighbours that never answered; returns whether there was one (see WireGuard). Not where
        keys are renewed: the other end may just have shaken hands, and would send in vain what the older takes."""
        borders = [[device for device in each.link.wireguards if self._seen(device)] for each in self._borders.values()]
        waiting = [self._wireguard.start_handshakes(devices[0]) for devices in borders if len(devices) == 1]
        return any(waiting)

    def take_newest(self) -> bool:
        """What leaves takes the newer of two devices of a border, if that has shaken hands meanwhile. Returns whether
        there is one that has not. Raises NodeRefused."""
        states = self.read()
        waits = False
        epochs = {(tunnel.border, slot(tunnel.epoch)): tunnel.epoch for tunnel in self.actual(states)}
        for name, border in self._borders.items():
            link = border.link
            there = [number for number in range(SLOTS) if getattr(states[link.wireguards[number]], "peers", ())]
            if len(there) < SLOTS:
                continue
            devices = [link.wireguards[number] for number in sorted(there, key=lambda each: epochs[name, each])]
            waits = waits or not _has_shaken(states[devices[-1]])
            newest = _newest(devices, states)
            if newest == self._sends.get(name):
                continue
            try:
                with closing(IPRoute()) as netlink:
                    set_way_out(netlink, link, newest)
            except (NetlinkError, OSError) as error:
                raise NodeRefused(f"tunnel {name}: the kernel did not turn what leaves to {newest}: {error}") from error
            self._sends[name] = newest
        return waits

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

    def _checked(self, desired: Iterable[Tunnel]) -> tuple[dict[str, tuple[_Device, ...]], dict[str, str]]:
        """The devices of each border, and why others cannot be."""
        by_border: dict[str, list[Tunnel]] = {}
        for tunnel in sorted(desired, key=lambda each: each.epoch):
            by_border.setdefault(tunnel.border, []).append(tunnel)
        wanted: dict[str, list[_Device]] = {}
        refused: dict[str, str] = {}
        for name, tunnels in by_border.items():
            where = f"tunnel {name}"
            if name not in self._borders:
                refused[name] = f"{where}: this node has no such border, only {sorted(self._borders)}"
                continue
            if len({slot(tunnel.epoch) for tunnel in tunnels}) < len(tunnels):
                refused[name] = f"{where} is named twice"
                continue
            for tunnel in tunnels:
                try:
                    if (device := self._device(self._borders[name], tunnel, where)) is not None:
                        wanted.setdefault(name, []).append(device)
                except (RequestInvalid, NodeRefused, OSError) as error:
                    refused[name if tunnel is tunnels[0] else f"{name}/{tunnel.epoch}"] = str(error)
                    break
        refused |= self._shared(wanted)
        checked = {
            name: tuple(device for device in devices if f"{name}/{device.epoch}" not in refused)
            for name, devices in wanted.items()
            if name not in refused
        }
        return checked, refused

    def _device(self, border: _Border, tunnel: Tunnel, where: str) -> _Device | None:
        """None: it has keys, and nothing more is wanted of it. Raises RequestInvalid or NodeRefused."""
        number, private_key, preshared_key = slot(tunnel.epoch), border.private_key, ""
        if tunnel.epoch:
            if not border.config.second_listen_port:
                raise RequestInvalid(f"{where}: keys are not renewed without second_listen_port")
            if not tunnel.peer_public_key:
                self._renewed.begun(border.config.name, tunnel.epoch)
                return None
            keys = self._exchanged(border.config.name, tunnel, where)
            private_key, preshared_key = keys.private_key, keys.preshared_key
        config = DeviceConfig(
            private_key=private_key,
            listen_port=border.listen_ports[number],
            peers=(self._peer(border, tunnel, where, preshared_key),),
        )
        return _Device(epoch=tunnel.epoch, name=border.link.wireguards[number], config=config)

    def _exchanged(self, name: str, tunnel: Tunnel, where: str) -> RenewedKeys:
        try:
            if tunnel.kem_ciphertext:
                return self._renewed.completed(name, tunnel.epoch, tunnel.kem_ciphertext)
            return self._renewed.answered(name, tunnel.epoch, tunnel.kem_key)
        except RequestInvalid as error:
            raise RequestInvalid(f"{where}: {error}") from error

    def _peer(self, border: _Border, tunnel: Tunnel, where: str, preshared_key: str) -> Peer:
        """Raises RequestInvalid."""
        peer = _peer(tunnel, where, preshared_key)
        objection = key_objection(addressing.key(peer.public_key))
        if peer.public_key in self._own_keys():
            objection = "the key is our own"
        objection = objection or place_objection(addressing.endpoint(peer.endpoint)[0], border.reaches, self._ours)
        if objection:
            raise RequestInvalid(f"{where}: the neighbour's end: {objection}")
        return peer

    def _own_keys(self) -> set[str]:
        renewed = (self._renewed.of_slot(name, number) for name in self._borders for number in range(SLOTS))
        return {
            *(public_key(border.private_key) for border in self._borders.values()),
            *(keys.public_key for keys in renewed if keys is not None),
        }

    def _shared(self, wanted: Mapping[str, Sequence[_Device]]) -> dict[str, str]:
        """Borders whose peer is another border's too, by its key or its place: who has it keeps it."""
        there = {
            (tunnel.border, value)
            for tunnel in self.actual(self.read())
            for value in (tunnel.peer_public_key, tunnel.peer_endpoint)
        }
        asked = [
            (name, value, what)
            for name, devices in wanted.items()
            for device in devices
            for value, what in ((device.peer.public_key, "key"), (device.peer.endpoint, "endpoint"))
        ]
        holders: dict[str, str] = {}
        refused = {}
        for name, value, what in sorted(asked, key=lambda each: (each[:2] not in there, each)):
            if (holder := holders.setdefault(value, name)) != name:
                refused[name] = f"tunnel {name}: the neighbour's end: its {what} is that of tunnel {holder}"
        return refused

    def _sync_tunnel(
        self, netlink: IPRoute, border: _Border, devices: Sequence[_Device], until: float, attempt: _Attempt
    ) -> None:
        """`until`: when it has waited enough for WireGuard, by the monotonic clock."""
        link, name = border.link, border.config.name
        existed = read_interface(link.pipeline) is not None
        repairs: list[str] = []
        with attempt.at(name):
            repairs += _sync_underlay(netlink, border.config)
            repairs += sync_pair(netlink, link)
        for device in devices if name not in attempt.reasons else ():
            with attempt.at(_part(devices, name, device)):
                state = self._served(device.name)
                if state is None:
                    self._wireguard.create(device.name, max(0.0, until - time.monotonic()))
                    repairs.append(f"started WireGuard for {device.name}")
                repairs += sync_wireguard_device(netlink, link, device.name)
                repairs += sync_ways_in(netlink, link, [name for name in link.wireguards if read_interface(name)])
                if device is devices[0] and not way_out(netlink, link):
                    repairs += set_way_out(netlink, link, device.name)
                if state is None or not state.matches(device.config):
                    self._wireguard.configure(device.name, device.config)
                    repairs.append(
                        f"configured {device.name} for peer {device.peer.public_key} at {device.peer.endpoint}"
                    )
        with attempt.at(name):
            states = {device.name: self._served(device.name) for device in devices}
            newest = _newest([device.name for device in devices], states)
            repairs += set_way_out(netlink, link, newest)
            self._sends[name] = newest
            for device_name in {*link.wireguards} - {device.name for device in devices}:
                if read_interface(device_name) is not None:
                    self._wireguard.remove(device_name)
                    repairs.append(f"removed {device_name}")
            repairs += sync_ways_in(netlink, link, [device.name for device in devices if read_interface(device.name)])
        if not existed and name not in attempt.reasons:
            attempt.changes.append(f"created tunnel {name} to {devices[0].peer.endpoint}")
        else:
            attempt.changes += [f"tunnel {name}: {repair}" for repair in repairs]

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
        devices = border.link.wireguards
        there = any(read_interface(device) is not None for device in devices)
        for device in devices:
            self._wireguard.remove(device)
        self._sends.pop(border.config.name, None)
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

    def _status(self, border: _Border, states: DeviceStates) -> BorderStatus:
        link, config = border.link, border.config
        told = [state for device in link.wireguards if (state := states[device]) is not None]
        traffic = [each for state in told for each in state.traffic]
        underlay = read_interface(config.interface)
        return BorderStatus(
            name=config.name,
            port=config.port,
            mac=link.pipeline_mac,
            kernel_mac=link.kernel_mac,
            carrier=underlay is not None and underlay.carrier,
            public_key=public_key(border.private_key),
            endpoint=border.endpoint(0),
            mtu=link.mtu,
            reaches=tuple(map(str, border.reaches)),
            up=any(state.peers for state in told) and read_interface(link.pipeline) is not None,
            latest_handshake_s=max((each.latest_handshake_s for each in traffic), default=0.0),
            received_bytes=sum(each.received_bytes for each in traffic),
            sent_bytes=sum(each.sent_bytes for each in traffic),
            renews=bool(config.second_listen_port),
            keys=self._keys(border, states),
        )

    def _keys(self, border: _Border, states: DeviceStates) -> tuple[TunnelKeys, ...]:
        link, name = border.link, border.config.name
        renewed = [self._renewed.of_slot(name, number) for number in range(SLOTS)]
        if any(renewed) and name not in self._sends and read_interface(link.pipeline):
            with closing(IPRoute()) as netlink:
                self._sends[name] = way_out(netlink, link)
        told = []
        for number, keys in enumerate(renewed):
            device = link.wireguards[number]
            state = states[device]
            is_served = keys is not None and state is not None and state.public_key == keys.public_key
            if keys is not None:
                told.append(
                    TunnelKeys(
                        epoch=keys.epoch,
                        public_key=keys.public_key,
                        endpoint=border.endpoint(number),
                        kem_key=keys.kem_key if keys.is_ours else b"",
                        kem_ciphertext=b"" if keys.is_ours else keys.kem_ciphertext,
                        shaken=is_served and _has_shaken(state),
                        sends=is_served and self._sends.get(name) == device,
                    )
                )
        return tuple(sorted(told, key=lambda each: each.epoch))


def _part(devices: Sequence[_Device], name: str, device: _Device) -> str:
    return name if device is devices[0] else f"{name}/{device.epoch}"


def _has_shaken(state: DeviceState | None) -> bool:
    return state is not None and any(traffic.latest_handshake_s for traffic in state.traffic)


def _newest(devices: Sequence[str], states: DeviceStates) -> str:
    """Of devices, older first, that have shaken hands; the oldest where none has."""
    shaken = [device for device in devices if _has_shaken(states[device])]
    return shaken[-1] if shaken else devices[0]


def _tunnel(border: str, peer: Peer, keys: RenewedKeys | None) -> Tunnel:
    return Tunnel(
        border=border,
        peer_public_key=peer.public_key,
        peer_endpoint=peer.endpoint,
        allowed_ips=peer.allowed_ips,
        persistent_keepalive_s=peer.persistent_keepalive_s,
        epoch=keys.epoch if keys is not None else 0,
        kem_key=keys.kem_key if keys is not None and not keys.is_ours else b"",
        kem_ciphertext=keys.kem_ciphertext if keys is not None and keys.is_ours else b"",
    )


def _begun(border: str, epoch: int) -> Tunnel:
    """Keys without a neighbour's end."""
    return Tunnel(border=border, peer_public_key="", peer_endpoint="", allowed_ips=(), epoch=epoch)


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


def _peer(tunnel: Tunnel, where: str, preshared_key: str) -> Peer:
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
        preshared_key=preshared_key,
    )
