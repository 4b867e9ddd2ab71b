"""WireGuard in the kernel, by netlink (pyroute2)."""

import errno
import ipaddress
from collections.abc import Mapping
from typing import Any

from pyroute2 import IPRoute
from pyroute2 import WireGuard as Netlink
from pyroute2.netlink.exceptions import NetlinkError

from dataplane import addressing
from dataplane.errors import NodeRefused
from dataplane.host.netlink import removing
from dataplane.wireguard.device import NO_PRESHARED_KEY, DeviceConfig, DeviceState, Peer, PeerTraffic, public_key

_NOT_OURS = (errno.ENODEV, errno.EOPNOTSUPP)
"""No such interface, or one of another kind, as what wireguard-go made before the kernel had WireGuard."""


class KernelWireGuard:
    @property
    def software(self) -> str:
        return "kernel"

    def begin(self, device: str) -> None:
        self.remove(device)

    def create(self, device: str, wait_s: float = 5.0) -> None:
        with IPRoute() as netlink:
            try:
                netlink.link("add", ifname=device, kind="wireguard")
            except NetlinkError as error:
                raise NodeRefused(f"the kernel did not make WireGuard device {device}: {error}") from error

    def configure(self, device: str, config: DeviceConfig) -> None:
        state = self.read(device)
        if state is None:
            raise NodeRefused(f"there is no WireGuard device {device}: sync the tunnel again to make it")
        wanted = {peer.public_key for peer in config.peers}
        try:
            with Netlink() as netlink:
                if (state.public_key, state.listen_port) != (public_key(config.private_key), config.listen_port):
                    netlink.set(device, private_key=config.private_key, listen_port=config.listen_port)
                for peer in state.peers:
                    if peer.public_key not in wanted:
                        netlink.set(device, peer={"public_key": peer.public_key, "remove": True})
                for peer in config.peers:
                    if peer not in state.peers:
                        netlink.set(device, peer=_request(peer))
        except NetlinkError as error:
            raise NodeRefused(f"the kernel refused the configuration of {device}: {error}") from error

    def start_handshakes(self, device: str) -> bool:
        state = self.read(device)
        if state is None:
            return False
        waiting = [peer for peer, said in zip(state.peers, state.traffic, strict=True) if not said.latest_handshake_s]
        try:
            with Netlink() as netlink:
                for peer in waiting:
                    netlink.set(device, peer={"public_key": peer.public_key, "remove": True})
                    netlink.set(device, peer=_request(peer))
        except NetlinkError as error:
            raise NodeRefused(f"the kernel refused the peers of {device}: {error}") from error
        return bool(waiting)

    def read(self, device: str) -> DeviceState | None:
        try:
            with Netlink() as netlink:
                messages = list(netlink.info(device))
        except NetlinkError as error:
            if error.code in _NOT_OURS:
                return None
            raise NodeRefused(f"the kernel does not tell about WireGuard device {device}: {error}") from error
        return _device_state(messages)

    def remove(self, device: str) -> None:
        with IPRoute() as netlink:
            for index in netlink.link_lookup(ifname=device):
                with removing():
                    netlink.link("del", index=index)


def kernel_has_wireguard() -> bool:
    """Asks for its netlink family, which also loads the module where there is one."""
    try:
        with Netlink():
            return True
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return False
        raise NodeRefused(f"cannot find out whether the kernel has WireGuard: {error}") from error


def _request(peer: Peer) -> dict[str, object]:
    request: dict[str, object] = {
        "public_key": peer.public_key,
        "persistent_keepalive": peer.persistent_keepalive_s,
        "replace_allowed_ips": True,
        "allowed_ips": list(peer.allowed_ips),
        "preshared_key": peer.preshared_key or NO_PRESHARED_KEY,
    }
    if peer.endpoint:
        host, port = addressing.endpoint(peer.endpoint)
        request |= {"endpoint_addr": str(host), "endpoint_port": port}
    return request


def _device_state(messages: list[Any]) -> DeviceState:
    key = messages[0].get("WGDEVICE_A_PUBLIC_KEY")
    told = _peers(messages)
    return DeviceState(
        public_key=key.decode() if key else "",
        listen_port=int(messages[0].get("WGDEVICE_A_LISTEN_PORT") or 0),
        peers=tuple(_peer(parts) for parts in told),
        traffic=tuple(_traffic(parts[0]) for parts in told),
    )


def _peers(messages: list[Any]) -> list[list[Any]]:
    """The parts of each peer. What does not fit into a message goes on in the next, of a peer only more allowed IPs
    (linux/wireguard.h, WG_CMD_GET_DEVICE)."""
    peers: dict[bytes, list[Any]] = {}
    for message in messages:
        for part in message.get("WGDEVICE_A_PEERS") or ():
            peers.setdefault(part.get("WGPEER_A_PUBLIC_KEY"), []).append(part)
    return list(peers.values())


def _peer(parts: list[Any]) -> Peer:
    first = parts[0]
    prefixes = (prefix["addr"] for part in parts for prefix in part.get("WGPEER_A_ALLOWEDIPS") or ())
    return Peer(
        public_key=first.get("WGPEER_A_PUBLIC_KEY").decode(),
        endpoint=_endpoint(first.get("WGPEER_A_ENDPOINT")),
        allowed_ips=tuple(sorted(str(ipaddress.ip_network(prefix)) for prefix in prefixes)),
        persistent_keepalive_s=int(first.get("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") or 0),
        preshared_key=_preshared(first.get("WGPEER_A_PRESHARED_KEY")),
    )


def _preshared(told: bytes | str | None) -> str:
    text = told.decode() if isinstance(told, bytes) else told or ""
    return "" if text == NO_PRESHARED_KEY else text


def _endpoint(told: Mapping[str, Any] | None) -> str:
    if told is None:
        return ""
    return addressing.write_endpoint(ipaddress.ip_address(told["addr"]), told["port"])


def _traffic(told: Any) -> PeerTraffic:
    handshake = told.get("WGPEER_A_LAST_HANDSHAKE_TIME") or {"tv_sec": 0, "tv_nsec": 0}
    return PeerTraffic(
        latest_handshake_s=handshake["tv_sec"] + handshake["tv_nsec"] / 1e9,
        received_bytes=int(told.get("WGPEER_A_RX_BYTES") or 0),
        sent_bytes=int(told.get("WGPEER_A_TX_BYTES") or 0),
    )
