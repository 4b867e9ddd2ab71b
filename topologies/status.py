"""How a lab is: what `stitch lab status -o json` prints."""

import msgspec

from topologies import lab, links
from topologies.daemons import process_of
from topologies.errors import LabError
from topologies.record import LabRecord, directory_of


class HostStatus(msgspec.Struct, frozen=True, kw_only=True):
    network: str
    ipv4: str
    ipv6: str
    namespace: str
    """A path: /proc/PID/ns/net."""


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    role: str
    pid: int | None
    """Of the agent; None: none runs."""
    namespace: str
    ports: dict[str, int]
    """Interface: P4Runtime port."""
    locator: str


class DomainStatus(msgspec.Struct, frozen=True, kw_only=True):
    pid: int | None
    """Of the controller; None: none runs."""
    server: str
    """URL of its API."""
    token_file: str


class WireStatus(msgspec.Struct, frozen=True, kw_only=True):
    a: str
    b: str
    state: str
    """up or down."""
    delay_ms: float
    """One way."""
    rate_mbit: float | None
    """None: not limited."""
    loss_percent: float
    devices: tuple[str, str]
    """Interface at a, interface at b."""


class LabStatus(msgspec.Struct, frozen=True, kw_only=True):
    lab: str
    hosts: dict[str, HostStatus]
    nodes: dict[str, NodeStatus]
    domains: dict[str, DomainStatus]
    links: tuple[WireStatus, ...]


def status(record: LabRecord) -> LabStatus:
    """Raises LabError if the lab lost its namespaces or its relay."""
    topology = lab.topology_of(record)
    if not record.namespaces:
        raise LabError(f"lab {record.lab} was never ready, or is starting: see {directory_of(record.lab)}/holder.log")
    namespaces = {name: f"/proc/{process}/ns/net" for name, process in record.namespaces.items()}
    return LabStatus(
        lab=record.lab,
        hosts={
            host.name: HostStatus(
                network=host.network, ipv4=host.address(4), ipv6=host.address(6), namespace=namespaces[host.name]
            )
            for host in topology.hosts
        },
        nodes={
            node.name: NodeStatus(
                role=str(node.role),
                pid=process_of(record.lab, node.name),
                namespace=namespaces[node.name],
                ports={port.interface: port.number for port in topology.ports(node.name)},
                locator=node.locator,
            )
            for node in topology.nodes
        },
        domains={
            domain.name: DomainStatus(
                pid=process_of(record.lab, domain.name), server=f"http://{domain.listen}", token_file=domain.token_file
            )
            for domain in record.domains
        },
        links=_wires(record),
    )


def _wires(record: LabRecord) -> tuple[WireStatus, ...]:
    states = links.relay_of(record).links()
    wires = links.wires(lab.topology_of(record))
    down = {
        (node, device)
        for node in {wire.b for wire in wires if wire.link is None}
        for device, up in _interfaces(record, node).items()
        if not up
    }
    return tuple(
        WireStatus(
            a=wire.a,
            b=wire.b,
            state="down" if (wire.b, wire.device_b) in down else "up",
            delay_ms=0,
            rate_mbit=None,
            loss_percent=0,
            devices=(wire.device_a, wire.device_b),
        )
        if wire.link is None
        else WireStatus(
            a=wire.a,
            b=wire.b,
            state="up" if (state := states[wire.link.name]).up else "down",
            delay_ms=state.delay_us / 1000,
            rate_mbit=state.rate_kbit / 1000 or None,
            loss_percent=state.loss_ppm / 10_000,
            devices=(wire.device_a, wire.device_b),
        )
        for wire in wires
    )


class _Interface(msgspec.Struct, frozen=True):
    ifname: str
    flags: tuple[str, ...]


def _interfaces(record: LabRecord, node: str) -> dict[str, bool]:
    """Name: it is up."""
    done = lab.execute(record, node, "ip", "-j", "link", "show")
    if done.returncode:
        raise LabError(f"interfaces of {node}: {done.stderr.strip()}")
    interfaces = msgspec.json.decode(done.stdout, type=list[_Interface])
    return {interface.ifname: "UP" in interface.flags for interface in interfaces}
