"""What people call a packet -> the packet: names become addresses, and addresses a frame."""

import ipaddress
import struct
from collections.abc import Iterator

import msgspec

from controller.fulfillment.aliases import known_to, moved
from controller.fulfillment.numbering import address, address_text
from controller.model.agreement import Alias
from controller.model.inventory import Attachment, Inventory, Service
from controller.model.trace import Probe, Unknown
from dataplane import addressing
from dataplane.reference.checksum import checksum, pseudo_header

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17}
SOURCE_PORT = 49152
"""The first dynamic one (RFC 6335 §6)."""
HOST_MAC = bytes.fromhex("020000000001")
"""Of every host, as far as a trace is concerned."""
_SYN = 0x02


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """A packet and the attached host that sends it."""

    network: str
    host: Attachment
    source: str
    destination: str
    protocol: str
    port: int

    def __str__(self) -> str:
        ends = f"{self.source} ({self.network}/{self.host.name}) -> {self.destination}"
        return f"{self.protocol} {ends}" + (f" port {self.port}" if self.port else "")

    def frame(self, gateway_mac: bytes) -> bytes:
        """A TCP SYN, an empty UDP datagram or an echo request, with right checksums."""
        packet = _packet(self.source, self.destination, self.protocol, self.port)
        ether_type = 0x86DD if ":" in self.source else 0x0800
        return gateway_mac + HOST_MAC + ether_type.to_bytes(2) + packet


def resolve(probe: Probe, inventory: Inventory, own: str) -> Sent | Unknown:
    """Names and families. IPv4 where both ends have it and no address says otherwise."""
    source = _source(probe.source, inventory, own)
    if isinstance(source, Unknown):
        return source
    network, host, sources = source
    target = _destination(probe.destination, inventory, network)
    if isinstance(target, Unknown):
        return target
    addresses, home, service = target
    if home:
        addresses = _known_as(addresses, known_to(inventory, network, home))
    pairs = [
        (source, destination)
        for source in sorted(sources, key=_version)
        for destination in sorted(addresses, key=_version)
        if _version(source) == _version(destination)
    ]
    if not pairs:
        return Unknown(f"{probe.source} ({' '.join(sources)}) and {probe.destination} share no IP version")
    offered = service.ports if service is not None else ()
    protocol = probe.protocol or (offered[0].protocol if offered and not probe.port else "")
    protocol = protocol or ("tcp" if probe.port else "icmp")
    first = next((ports.first for ports in offered if ports.protocol == protocol), 0)
    port = (probe.port or first) if protocol != "icmp" else 0
    if protocol != "icmp" and not port:
        return Unknown(f"{protocol} to {probe.destination} needs a port: {probe.destination}:PORT/{protocol}")
    return Sent(network=network, host=host, source=pairs[0][0], destination=pairs[0][1], protocol=protocol, port=port)


def _version(text: str) -> int:
    return ipaddress.ip_address(text).version


def _source(name: str, inventory: Inventory, own: str) -> tuple[str, Attachment, tuple[str, ...]] | Unknown:
    """Network, host, and its addresses (the one that was named)."""
    hosts = [(network, attachment) for network, attachment in _attachments(inventory) if network.split("/")[0] == own]
    place, _, last = name.rpartition("/")
    matching = [
        (network, attachment) for network, attachment in hosts if attachment.name == last and place in ("", network)
    ]
    exact = _address(last)
    if exact is not None:
        matching = [
            (network, attachment)
            for network, attachment in hosts
            if exact in attachment.addresses and place in ("", network)
        ]
    if not matching:
        return Unknown(f"no host of domain {own} is {name}; there are: {_names(hosts)}")
    if len({(network, attachment.name) for network, attachment in matching}) > 1:
        return Unknown(f"{name} is several: {_names(matching)}; name the network too")
    network, host = matching[0]
    return network, host, (exact,) if exact is not None else host.addresses


def _names(hosts: list[tuple[str, Attachment]]) -> str:
    return ", ".join(sorted(f"{network}/{host.name}" for network, host in hosts)) or "none"


def _known_as(addresses: tuple[str, ...], aliases: tuple[Alias, ...]) -> tuple[str, ...]:
    return tuple(address_text(moved(address(text), aliases)) for text in addresses)


def _destination(
    name: str, inventory: Inventory, network: str
) -> tuple[tuple[str, ...], str, Service | None] | Unknown:
    """Addresses, the network where they are (empty: an address was named), and the service if it is one. What is nearer
    to the source's network is meant first."""
    exact = _address(name)
    if exact is not None:
        return (exact,), "", None
    service = inventory.services.get(name)
    if service is not None:
        return service.addresses, name.rpartition("/")[0], service
    place, _, last = name.rpartition("/")
    hosts = [(home, host) for home, host in _attachments(inventory) if host.name == last and place in ("", home)]
    hosts = [host for host in hosts if host[0] == network] or hosts
    services = [service for service in inventory.services.values() if not place and service.name.split("/")[-1] == last]
    if len(hosts) + len(services) > 1:
        several = ", ".join((*(f"{home}/{host.name}" for home, host in hosts), *(service.name for service in services)))
        return Unknown(f"{name} is several: {several}; write one of them")
    if hosts:
        return hosts[0][1].addresses, hosts[0][0], None
    if services:
        return services[0].addresses, services[0].name.rpartition("/")[0], services[0]
    known = ", ".join(sorted(inventory.services)) or "none"
    return Unknown(f"no host or service is {name}; services: {known}; hosts of other domains have addresses only")


def _attachments(inventory: Inventory) -> Iterator[tuple[str, Attachment]]:
    for network in inventory.networks.values():
        for attachment in network.attachments:
            yield network.name, attachment


def _address(text: str) -> str | None:
    try:
        return str(addressing.address(text))
    except ValueError:
        return None


# ---- bytes


def _packet(source: str, destination: str, protocol: str, port: int) -> bytes:
    near, far = (ipaddress.ip_address(address).packed for address in (source, destination))
    version = _version(source)
    number = 58 if (protocol, version) == ("icmp", 6) else PROTOCOLS[protocol]
    body = _transport(near, far, number, port)
    if version == 6:
        return struct.pack("!IHBB", 6 << 28, len(body), number, 64) + near + far + body
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0x4000, 64, number, 0) + near + far
    return header[:10] + checksum(header).to_bytes(2) + header[12:] + body


def _transport(near: bytes, far: bytes, number: int, port: int) -> bytes:
    match number:
        case 6:
            body, place = struct.pack("!HHIIBBHHH", SOURCE_PORT, port, 1, 0, 5 << 4, _SYN, 65535, 0, 0), 16
        case 17:
            body, place = struct.pack("!HHHH", SOURCE_PORT, port, 8, 0), 6
        case _:
            body, place = struct.pack("!BBHHH", 8 if number == 1 else 128, 0, 0, 1, 1), 2
    covered = body if number == 1 else pseudo_header(near, far, len(body), number) + body
    return body[:place] + checksum(covered).to_bytes(2) + body[place + 2 :]
