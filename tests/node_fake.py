"""A node without a kernel: the agent's own P4Runtime server over maps in memory, and a small `netstitch.Host`."""

import asyncio
import base64
import hashlib
import ipaddress
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import msgspec
from map_fake import FakeMap
from pipeline_tables import LAYOUT, fake_maps

from dataplane.entry import TableEntry
from dataplane.errors import NodeRefused
from dataplane.host import service as host_service
from dataplane.host_api import (
    AuditReport,
    BorderConfig,
    BorderStatus,
    Capabilities,
    CapturedFrame,
    CaptureQuery,
    FlowBatch,
    FlowQuery,
    HostReport,
    HostState,
    NodeDescription,
    PortConfig,
    PortStatus,
    TelemetryBatch,
    TelemetryQuery,
)
from dataplane.p4runtime.columns import Rows
from dataplane.p4runtime.server import SERVER_OPTIONS, Device, P4RuntimeService, add_p4runtime
from dataplane.tables.node_tables import Tables
from dataplane.telemetry.counters import per_cpu_totals

CPUS = 2


def mac(port: int, side: int = 0) -> str:
    return f"02:00:00:00:{side:02x}:{port:02x}"


def public_key(node: str, border: str) -> str:
    """As WireGuard's look, in the canonical form (RFC 7748 §5: below 2**255 - 19)."""
    digest = hashlib.sha256(f"{node} {border}".encode()).digest()
    return base64.b64encode(digest[:-1] + bytes((digest[-1] & 0x7F,))).decode()


class FakeHost:
    """Ports and tunnels as values. What is asked for is there at once."""

    def __init__(self, name: str, ports: tuple[PortConfig, ...], borders: tuple[BorderConfig, ...]) -> None:
        self.name = name
        self.ports = ports
        self.borders = borders
        self.state = HostState()
        self.syncs: list[HostState] = []
        self.refusal = ""
        self.on_sync: Callable[[HostState], None] = lambda state: None
        self.boot_epoch_s = 1_700_000_000
        self.without_carrier: frozenset[int] = frozenset()
        self.digests: Callable[[], dict[str, bytes]] = dict

    async def describe(self) -> NodeDescription:
        up = {tunnel.border for tunnel in self.state.tunnels}
        ports = tuple(
            PortStatus(
                number=port.number,
                interface=port.interface,
                role=port.role,
                mac=mac(port.number),
                mtu=1500,
                carrier=port.number not in self.without_carrier,
            )
            for port in self.ports
        )
        borders = tuple(
            BorderStatus(
                name=border.name,
                port=border.port,
                mac=mac(border.port),
                kernel_mac=mac(border.port, 1),
                public_key=public_key(self.name, border.name),
                endpoint=f"{border.address.partition('/')[0]}:{border.listen_port}",
                mtu=border.mtu,
                reaches=(str(ipaddress.ip_interface(border.address).network),),
                up=border.name in up,
                latest_handshake_s=time.time() // 60 * 60 if border.name in up else 0.0,
                received_bytes=0,
                sent_bytes=0,
            )
            for border in self.borders
        )
        return NodeDescription(
            name=self.name,
            software="fake",
            probes_max=512,
            wireguard="kernel",
            boot_epoch_s=self.boot_epoch_s,
            layout=LAYOUT.digest,
            capabilities=Capabilities(dataplane="simulated", kernel="6.1", cpus=2, h_encaps_segments=4, srh_segments=8),
            ports=ports,
            borders=borders,
            host_state=self.state,
        )

    async def sync(self, desired: HostState) -> HostReport:
        if self.refusal:
            raise NodeRefused(self.refusal)
        self.on_sync(desired)
        self.syncs.append(desired)
        changes = []
        for kind in ("gateways", "tunnels"):
            before, after = set(getattr(self.state, kind)), set(getattr(desired, kind))
            changes += [f"created {each}" for each in sorted(after - before, key=repr)]
            changes += [f"removed {each}" for each in sorted(before - after, key=repr)]
        self.state = desired
        return HostReport(changes=tuple(changes))

    async def audit(self, desired: HostState) -> AuditReport:
        done = await self.sync(desired)
        return AuditReport(
            changes=done.changes, refused=done.refused, digests=self.digests(), description=await self.describe()
        )

    async def read_flows(self, query: FlowQuery) -> FlowBatch:
        return FlowBatch(time_s=1.0, flows=(), truncated=False)

    async def watch_telemetry(self, query: TelemetryQuery, send: Callable[[TelemetryBatch], Awaitable[None]]) -> None:
        while True:
            ports = (await self.describe()).ports
            await send(
                TelemetryBatch(time_s=1.0, flows=(), forwarding_classes=(), drops=(), ports=ports, lost_batches=0)
            )
            await asyncio.sleep(query.interval_s)

    async def capture(self, query: CaptureQuery, send: Callable[[CapturedFrame], Awaitable[None]]) -> None:
        raise NodeRefused(f"{self.name}: a fake node has no frames to capture")


class NoPackets:
    def send(self, port: int, frame: bytes) -> None:
        """It is lost, as on a cable that ends nowhere."""


@dataclass
class FakeNode:
    """`start` and `stop` are the agent's; the maps outlast it, as pinned ones do."""

    name: str
    directory: Path
    ports: tuple[PortConfig, ...] = ()
    borders: tuple[BorderConfig, ...] = ()
    host: FakeHost = field(init=False)
    maps: dict[str, FakeMap] = field(default_factory=fake_maps)
    tables: Tables = field(init=False)
    writes: int = 0
    """Updates that were asked for, by whomever."""
    batches: list[list[str]] = field(default_factory=list)
    """Of each Write: `table` of each run."""
    reads: list[str] = field(default_factory=list)
    """Tables that were read back."""
    calls: list[str] = field(default_factory=list)
    """Methods that were called, with their service."""
    _server: grpc.aio.Server | None = None

    def __post_init__(self) -> None:
        self.host = FakeHost(self.name, self.ports, self.borders)
        self.host.digests = self.digests
        self.directory.mkdir(parents=True, exist_ok=True)
        self._fresh = True
        self.drop_counter = FakeMap(4, 16 * CPUS, 256, fixed=True)
        self.forwarding_class_counter = FakeMap(4, 16 * CPUS, 32768, fixed=True)
        self.forwarding_class_drop_counter = FakeMap(4, 16 * CPUS, 32768, fixed=True)

    @property
    def agent(self) -> str:
        return f"unix:{self.directory}/agent.sock"

    async def start(self) -> None:
        self.tables = CountedTables(self)
        server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=(Noted(self.calls),))
        device = Device(
            device_id=1,
            layout=LAYOUT,
            tables=self.tables,
            counters={
                "drop_counter": lambda: per_cpu_totals(self.drop_counter),
                "forwarding_class_drop_counter": lambda: per_cpu_totals(self.forwarding_class_drop_counter),
                "forwarding_class_counter": lambda: per_cpu_totals(self.forwarding_class_counter),
            },
            packets=NoPackets(),
            state_dir=self.directory,
            fresh=self._fresh,
        )
        self._fresh = False
        self.service: P4RuntimeService = add_p4runtime(server, device)
        server.add_generic_rpc_handlers((host_service.handler(self.host),))
        (self.directory / "agent.sock").unlink(missing_ok=True)
        server.add_insecure_port(self.agent)
        await server.start()
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    def digests(self) -> dict[str, bytes]:
        """Of all maps whose names begin with the table's."""
        contents = {name: repr(sorted(fake_map.data.items())).encode() for name, fake_map in self.maps.items()}
        return {
            table.table.name: hashlib.sha256(
                b"".join(content for name, content in contents.items() if name.startswith(table.table.name))
            ).digest()
            for table in LAYOUT.tables
        }

    def entries(self, table: str) -> tuple[TableEntry, ...]:
        return self.tables.entries(table)

    def all_entries(self) -> dict[str, tuple[TableEntry, ...]]:
        """By table, in an order that does not depend on when they were written."""
        return {table.table.name: tuple(sorted(self.entries(table.table.name), key=repr)) for table in LAYOUT.tables}


class Noted(grpc.aio.ServerInterceptor):
    def __init__(self, calls: list[str]) -> None:
        self._calls = calls

    async def intercept_service(self, continuation, handler_call_details):  # type: ignore[no-untyped-def]
        self._calls.append(handler_call_details.method)
        return await continuation(handler_call_details)


class CountedTables(Tables):
    """Tables that note what was written."""

    def __init__(self, node: FakeNode) -> None:
        super().__init__(LAYOUT, node.maps)
        self._node = node

    def read(self, table: str) -> Rows:
        if getattr(self, "_node", None) is not None:  # not while it takes the maps over
            self._node.reads.append(table)
        return super().read(table)

    def write(self, runs):  # type: ignore[no-untyped-def]
        self._node.writes += sum(len(run.rows.keys) for run in runs)
        self._node.batches.append([f"{run.operation.name.lower()} {run.table.table.name}" for run in runs])
        return super().write(runs)


def describe(node: FakeNode) -> str:
    """For failures: what it has."""
    return msgspec.json.encode({name: len(entries) for name, entries in node.all_entries().items()}).decode()
