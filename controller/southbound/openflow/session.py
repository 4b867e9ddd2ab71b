"""The session with one OpenFlow switch: connect, say who leads, describe, then make it have what it shall have.

```
 connect ──▶ hello ──▶ features (which datapath) ──▶ lead ──▶ NodeDescribed ──▶ hold the connection, and
                                                                               SyncNode ──▶ NodeSynced | NodeRejected
```
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import TypeVar

from controller.errors import TargetRejected, TargetUnreachable
from controller.model.event import NodeSynced, SyncNode
from controller.model.openflow import TABLE, OpenFlowSwitch
from controller.southbound.openflow import messages
from controller.southbound.openflow.connection import Connection
from controller.southbound.openflow.messages import Malformed, SwitchPort
from controller.southbound.openflow.switch import LARGE_OCTETS, OpenFlowTable
from controller.southbound.p4runtime import SIZE_MAX
from controller.southbound.session import Session, SessionContext
from dataplane.bounds import LARGEST_PORT
from dataplane.host_api import (
    CounterSample,
    FlowBatch,
    HostState,
    LostPackets,
    NodeDescription,
    PortRole,
    PortStatus,
)
from dataplane.reasons import DropReason

T = TypeVar("T")
PORTS_S_MIN = 0.1
"""Until changes of ports are told, all of that time at once."""
SOFTWARE_MAX = 100
"""Characters of what it says it is."""
LAYOUT = "openflow 1.3"
_CHECK = "check `agent` of the node's manifest"
_MTU = 65535
"""OpenFlow does not say it: links do."""


class OpenFlowSession(Session):
    def __init__(
        self, name: str, agent: str, switch: OpenFlowSwitch, context: SessionContext, datapaths: dict[int, str]
    ) -> None:
        """`datapaths`: shared by all sessions, of those that are connected."""
        super().__init__(name, agent, context)
        self._switch = switch
        self._datapaths = datapaths
        self._table: OpenFlowTable | None = None
        self._ports: dict[int, SwitchPort] = {}
        self._software = ""
        self._ports_changed = asyncio.Event()

    async def flows(self, forwarding_class: int = -1) -> FlowBatch:
        """It has no records of flows."""
        return FlowBatch(time_s=0.0, flows=(), truncated=False)

    async def drops(self) -> tuple[CounterSample, ...]:
        """What its table-miss entry dropped. Raises TargetUnreachable or TargetRejected."""
        if self._table is None:
            raise TargetUnreachable(self.fault or f"node {self.name}: not connected")
        missed = [flow for flow in await self._table.flows() if not flow.priority and not flow.match]
        return tuple(
            CounterSample(index=DropReason.SID_NOT_ADMITTED, packets=flow.packets, bytes=flow.bytes)
            for flow in missed
            if flow.packets
        )

    async def losses(self) -> tuple[LostPackets, ...]:
        return ()

    async def forwarding_classes(self) -> tuple[CounterSample, ...]:
        """Traffic is classified at edges, and this is none."""
        return ()

    async def forwarding_class_drops(self) -> tuple[CounterSample, ...]:
        return ()

    async def _session(self) -> None:
        connection = Connection(self.name, self._switch.address, self._context.tls)
        connection.on_packet, connection.on_port = self._punted, self._port_changed
        try:
            await connection.open()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(connection.hold(), name=f"{self.name} connection")
                await self._learn(connection)
                self._table = table = OpenFlowTable(self.name, connection)
                self._begin()
                await self._tell(self._description())
                tasks.create_task(self._discover(_sender(connection)), name=f"{self.name} discovery")
                tasks.create_task(self._watch_ports(), name=f"{self.name} ports")
                make = functools.partial(self._make, table)
                tasks.create_task(self._keep_tables_in_sync(make), name=f"{self.name} sync")
        finally:
            self._table = None
            if self._datapaths.get(self._switch.datapath_id) == self.name:
                del self._datapaths[self._switch.datapath_id]
            connection.close()

    async def _learn(self, connection: Connection) -> None:
        """Which switch it is, that we lead it, and what it has."""
        features = await connection.request(lambda xid: messages.message(messages.FEATURES_REQUEST, xid))
        self._check_datapath((await self._read(messages.features, features)).datapath_id)
        generation = self._context.next_election_id()
        await connection.request(lambda xid: messages.role_request(xid, generation))
        connection.send(messages.set_config)
        connection.send(messages.set_async)
        said = await self._read(messages.description, await _parts(connection, messages.DESCRIPTION))
        self._software = said[:SOFTWARE_MAX]
        ports = await self._read(messages.ports, await _parts(connection, messages.PORTS))
        self._ports = {port.number: port for port in ports if 0 < port.number <= LARGEST_PORT}
        try:
            sizes = await self._read(messages.table_sizes, await _parts(connection, messages.TABLE_FEATURES))
        except TargetRejected:  # which a switch need not have (§7.3.5.5)
            sizes = {}
        self._sizes = {TABLE: min(sizes[0], SIZE_MAX)} if 0 in sizes else {}

    async def _read(self, decode: Callable[[bytes], T], body: bytes) -> T:
        try:
            return await asyncio.to_thread(decode, body) if len(body) > LARGE_OCTETS else decode(body)
        except Malformed as exc:
            raise TargetRejected(f"node {self.name}: what the switch answers is no OpenFlow 1.3: {exc}") from exc

    def _check_datapath(self, actual: int) -> None:
        expected, who = self._switch.datapath_id, f"node {self.name}: the switch at {self._switch.address}"
        if actual != expected:
            raise TargetRejected(f"{who} is datapath {actual:016x}, not {expected:016x}: {_CHECK}")
        other = self._datapaths.setdefault(expected, self.name)
        if other != self.name:
            raise TargetRejected(f"{who} is datapath {actual:016x}, as node {other}: give one of the two another id")

    def _description(self) -> NodeDescription:
        return NodeDescription(
            name=self.name,
            software=self._software,
            wireguard="none",
            boot_epoch_s=0,
            layout=LAYOUT,
            ports=tuple(
                PortStatus(
                    number=port.number,
                    interface=port.name,
                    role=PortRole.FABRIC,
                    mac=port.mac.hex(":"),
                    mtu=_MTU,
                    carrier=port.is_up,
                    way="native",
                )
                for port in sorted(self._ports.values())
            ),
            borders=(),
            host_state=HostState(),
        )

    def _port_changed(self, is_gone: bool, port: SwitchPort) -> None:
        if is_gone:
            self._ports.pop(port.number, None)
        elif 0 < port.number <= LARGEST_PORT:
            self._ports[port.number] = port
        self._ports_changed.set()

    async def _watch_ports(self) -> None:
        while True:
            await self._ports_changed.wait()
            await asyncio.sleep(PORTS_S_MIN)
            self._ports_changed.clear()
            await self._tell(self._description())

    async def _make(self, table: OpenFlowTable, wanted: SyncNode) -> NodeSynced:
        delta = wanted.delta if wanted.delta is not None and wanted.delta.since == self._has else None
        self._has = -1
        report = await table.sync(wanted.state.entries, delta=delta, read_back=wanted.audit)
        self._has = wanted.generation
        return NodeSynced(
            node=self.name,
            generation=wanted.generation,
            writes=report.writes,
            deviations=report.deviations if wanted.audit else (),
        )


def _sender(connection: Connection) -> Callable[[int, bytes], Awaitable[None]]:
    async def send(port: int, frame: bytes) -> None:
        connection.send(lambda xid: messages.packet_out(xid, port, frame))

    return send


async def _parts(connection: Connection, kind: int) -> bytes:
    return await connection.request(lambda xid: messages.multipart_request(xid, kind))
