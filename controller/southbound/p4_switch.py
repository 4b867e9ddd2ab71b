"""The session with one P4 switch: connect, lead, give it our program, then make its tables be as they shall be.

```
 connect ──▶ arbitration ──▶ pipeline ──▶ NodeDescribed ──▶ hold the stream, and
                                                             SyncNode ──▶ NodeSynced | NodeRejected
```
"""

import asyncio
import functools
import time

from controller.errors import TargetRejected, TargetUnreachable
from controller.model.event import NodeSynced, SyncNode
from controller.model.p4_switch import P4Switch
from controller.southbound.node import open_channel
from controller.southbound.p4runtime import P4RuntimeClient
from controller.southbound.session import Session, SessionContext
from dataplane.host_api import Capabilities, CounterSample, FlowBatch, HostState, LostPackets, NodeDescription
from dataplane.p4runtime.p4_program import PROGRAM_FILE

SOFTWARE = "p4runtime"
CONTAINERS, SRH_SEGMENTS = 4, 3
"""That our program puts ahead of a packet, and takes of an SRH (p4src/sr_policy.p4, headers.p4)."""


class P4SwitchSession(Session):
    def __init__(
        self, name: str, agent: str, switch: P4Switch, context: SessionContext, targets: dict[P4Switch, str]
    ) -> None:
        """`targets`: shared by all sessions, of those that are connected."""
        super().__init__(name, agent, context)
        self._switch = switch
        self._targets = targets
        self._tables: P4RuntimeClient | None = None

    async def flows(self, forwarding_class: int = -1) -> FlowBatch:
        """It has no records of flows."""
        return FlowBatch(time_s=0.0, flows=(), truncated=False)

    async def drops(self) -> tuple[CounterSample, ...]:
        """`drop_counter` by DropReason, read now. Raises TargetUnreachable or TargetRejected."""
        if self._tables is None:
            raise TargetUnreachable(self.fault or f"node {self.name}: not connected")
        return await self._tables.read_counter("drop_counter")

    async def losses(self) -> tuple[LostPackets, ...]:
        return ()

    async def forwarding_classes(self) -> tuple[CounterSample, ...]:
        """Traffic is classified at edges, and this is none."""
        return ()

    async def forwarding_class_drops(self) -> tuple[CounterSample, ...]:
        return ()

    async def _session(self) -> None:
        other = self._targets.setdefault(self._switch, self.name)
        if other != self.name:
            raise TargetRejected(f"node {self.name}: {self.agent} is node {other}: check `agent` of the two")
        try:
            await self._lead()
        finally:
            if self._targets.get(self._switch) == self.name:
                del self._targets[self._switch]

    async def _lead(self) -> None:
        channel = open_channel(self.name, self._switch.address, self._context)
        tables = P4RuntimeClient(
            self.name,
            channel,
            self._context.codec,
            self._context.next_election_id(),
            self._switch.device_id,
            PROGRAM_FILE.read_bytes(),
        )
        try:
            await tables.become_primary()
            self._sizes = await tables.ensure_pipeline()
            self._tables = tables
            self._begin()
            await self._tell(description(self.name))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(tables.hold(self._punted), name=f"{self.name} stream")
                tasks.create_task(self._discover(tables.send), name=f"{self.name} discovery")
                make = functools.partial(self._make, tables)
                tasks.create_task(self._keep_tables_in_sync(make), name=f"{self.name} sync")
        finally:
            self._tables = None
            tables.close()
            await channel.close()

    async def _make(self, tables: P4RuntimeClient, wanted: SyncNode) -> NodeSynced:
        delta = wanted.delta if wanted.delta is not None and wanted.delta.since == self._has else None
        self._has = -1
        report = await tables.sync(wanted.state.entries, delta=delta, read_back=wanted.audit)
        self._has = wanted.generation
        if delta is None or any(entry.table == "next_hop" for entry in (*delta.put, *delta.gone)):
            self._lldp.set_ports(_ports(wanted), time.monotonic())
            self._heard.set()
        return NodeSynced(
            node=self.name,
            generation=wanted.generation,
            writes=report.writes,
            deviations=report.deviations if wanted.audit else (),
        )


def description(node: str) -> NodeDescription:
    return NodeDescription(
        name=node,
        software=SOFTWARE,
        wireguard="none",
        boot_epoch_s=0,
        layout=SOFTWARE,
        capabilities=Capabilities(dataplane=SOFTWARE, h_encaps_segments=CONTAINERS, srh_segments=SRH_SEGMENTS),
        ports=(),
        tells_ports=False,
        borders=(),
        host_state=HostState(),
    )


def _ports(wanted: SyncNode) -> dict[int, tuple[bytes, str]]:
    """Those that its next hops lead to: number -> MAC and a name."""
    hops = [dict(entry.params) for entry in wanted.state.entries if entry.table == "next_hop"]
    return {hop["port"]: (hop["source_mac"].to_bytes(6), str(hop["port"])) for hop in hops if "source_mac" in hop}
