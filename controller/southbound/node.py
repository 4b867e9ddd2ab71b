"""The session with one node: connect, lead, describe, then make it have what it shall have, whenever that changes.

```
      ┌───────────── back-off ◀── NodeUnreachable ◀──────────────┐
      ▼                                                          │ stream ends, deadline, another leads
 connect ──▶ arbitration ──▶ pipeline ──▶ NodeDescribed ──▶ hold the stream, watch telemetry, and
                                                             SyncNode ──▶ NodeSynced | NodeRejected
```
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence

import grpc
import msgspec

from controller.errors import TargetRejected, TargetUnreachable
from controller.model.event import (
    Deviation,
    NodeRejected,
    NodeSynced,
    SyncNode,
)
from controller.southbound import p4runtime
from controller.southbound.host import HostClient
from controller.southbound.measurements import Measurements
from controller.southbound.p4runtime import P4RuntimeClient
from controller.southbound.session import Session, SessionContext
from dataplane import host_api
from dataplane.host_api import (
    CounterSample,
    FlowBatch,
    FlowQuery,
    HostState,
    LostPackets,
    NodeDescription,
    PartRefused,
    TelemetryQuery,
)

TELEMETRY_RETRY_S = 2.0
HANDSHAKE_LOOK_S = 0.2
HANDSHAKE_LOOKS = 25
"""How often, and how many times at most, a node with new tunnels is asked whether they have shaken hands."""
ANSWER_BYTES_MAX = {
    (p4runtime.SERVICE, "StreamChannel"): 128 << 10,  # a frame
    (p4runtime.SERVICE, "GetForwardingPipelineConfig"): 1 << 20,  # a P4Info
    (p4runtime.SERVICE, None): 4 << 20,  # what gRPC takes where nobody says otherwise
    (host_api.SERVICE, None): 8 << 20,
    (host_api.SERVICE, host_api.WATCH_TELEMETRY.name): 32 << 20,  # all flows have changed
}
"""By service and method (None: any other), before it is decoded: of one octet of empty messages 20 become."""
SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": service, "method": method} if method else {"service": service}],
            "maxResponseMessageBytes": most,
        }
        for (service, method), most in ANSWER_BYTES_MAX.items()
    ]
}
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", max(ANSWER_BYTES_MAX.values())),
    ("grpc.service_config", msgspec.json.encode(SERVICE_CONFIG).decode()),
    ("grpc.max_metadata_size", 4 * 1024 * 1024),  # errors of a batch come one for each update
    ("grpc.absolute_max_metadata_size", 4 * 1024 * 1024),
    ("grpc.use_local_subchannel_pool", 1),  # a new session is a new connection
    ("grpc.enable_http_proxy", 0),
)

FLOWS_MAX = 10_000
"""Of one node at a time."""


class NodeSession(Session):
    """Of a node with an agent of ours."""

    def __init__(self, name: str, agent: str, context: SessionContext) -> None:
        super().__init__(name, agent, context)
        self._clients: tuple[P4RuntimeClient, HostClient] | None = None

    async def flows(self, forwarding_class: int = -1) -> FlowBatch:
        """Read now. Raises TargetUnreachable or TargetRejected."""
        return await self._connected()[1].read_flows(FlowQuery(forwarding_class=forwarding_class, limit=FLOWS_MAX))

    async def drops(self) -> tuple[CounterSample, ...]:
        """`drop_counter` by DropReason, read now. Raises TargetUnreachable or TargetRejected."""
        return await self._connected()[0].read_counter("drop_counter")

    async def losses(self) -> tuple[LostPackets, ...]:
        """Read now. Raises TargetUnreachable or TargetRejected."""
        return await self._connected()[1].read_losses()

    async def forwarding_classes(self) -> tuple[CounterSample, ...]:
        """`forwarding_class_counter` by forwarding class, read now. Raises TargetUnreachable or TargetRejected."""
        return await self._connected()[0].read_counter("forwarding_class_counter")

    async def forwarding_class_drops(self) -> tuple[CounterSample, ...]:
        """`forwarding_class_drop_counter`, read now. Raises TargetUnreachable or TargetRejected."""
        return await self._connected()[0].read_counter("forwarding_class_drop_counter")

    async def _session(self) -> None:
        channel = open_channel(self.name, self.agent, self._context)
        tables = P4RuntimeClient(self.name, channel, self._context.codec, self._context.next_election_id())
        host = HostClient(self.name, channel)
        try:
            await tables.become_primary()
            self._sizes = await tables.ensure_pipeline()
            description = await host.describe()
            self._clients = (tables, host)
            self._begin()
            await self._tell(description)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(tables.hold(self._punted), name=f"{self.name} stream")
                tasks.create_task(self._discover(tables.send), name=f"{self.name} discovery")
                tasks.create_task(self._watch(host, description), name=f"{self.name} telemetry")
                tasks.create_task(self._keep_in_sync(tables, host, description), name=f"{self.name} sync")
        finally:
            self._clients = None
            tables.close()
            await channel.close()

    def _connected(self) -> tuple[P4RuntimeClient, HostClient]:
        if self._clients is None:
            raise TargetUnreachable(self.fault or f"node {self.name}: not connected")
        return self._clients

    async def _watch(self, host: HostClient, description: NodeDescription) -> None:
        """Telemetry is worth having, but nothing depends on it: a failure is shown, and tried again.

        A node whose carriers, or silent links, have changed is asked what it is now, not only at the next audit.
        """
        carriers = {port.number: (port.carrier, port.silent) for port in description.ports}
        query = TelemetryQuery(packed=description.capabilities.packed_flows)
        measurements = Measurements(self.name)
        while True:
            try:
                async for batch in host.telemetry(query):
                    self.telemetry_fault = ""
                    self._context.observe(self.name, batch)
                    if batch.probes and (measured := measurements.take(batch.probes, time.time())) is not None:
                        await self._context.report(measured)
                    seen = {p.number: (p.carrier, p.silent) for p in batch.ports if p.number in carriers}
                    if carriers != carriers | seen:
                        carriers |= seen
                        await self._tell(await host.describe())
                self.telemetry_fault = f"node {self.name}: ended its telemetry"
            except (TargetUnreachable, TargetRejected) as exc:
                self.telemetry_fault = str(exc)
            await asyncio.sleep(TELEMETRY_RETRY_S)

    async def _keep_in_sync(self, tables: P4RuntimeClient, host: HostClient, description: NodeDescription) -> None:
        looks = HANDSHAKE_LOOKS
        nothing_new: NodeSynced | None = None
        """What an audit comes to that finds what was told before."""
        while True:
            if looks and _waits_for_handshake(description):  # what a tunnel carries is known by it
                looks -= 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HANDSHAKE_LOOK_S):
                        await self._arrived.wait()
                if not self._arrived.is_set():
                    description = await host.describe()
                    await self._tell(description)
                    continue
            await self._arrived.wait()
            self._arrived.clear()
            wanted, self._wanted = self._wanted, None
            if wanted is None:
                continue
            try:
                synced, said = await self._make(tables, host, description, wanted)
                if not wanted.audit or synced != nothing_new:
                    await self._context.report(synced)
                nothing_new = NodeSynced(node=self.name, generation=wanted.generation, writes=0)
            except TargetRejected as exc:
                nothing_new = None
                rejected = NodeRejected(
                    node=self.name, generation=wanted.generation, reason=str(exc), refused=exc.refused
                )
                await self._context.report(rejected)
                said = await host.describe()  # perhaps it is different, before it was refused
            except TargetUnreachable:
                if self._wanted is None:  # nothing newer: it is still what is wanted when the node is back
                    self.submit(wanted)
                raise
            if said is not description:
                if said.host_state != description.host_state:
                    looks = HANDSHAKE_LOOKS
                description = said
                await self._tell(description)

    async def _make(
        self, tables: P4RuntimeClient, host: HostClient, described: NodeDescription, wanted: SyncNode
    ) -> tuple[NodeSynced, NodeDescription]:
        """Tunnels that come before the entries, tunnels that go after. What is refused stops nothing else.

        Also returns what the node is then; `described` is what it was.
        """
        changes: list[str] = []
        rejections: list[TargetRejected] = []
        refused: dict[str, PartRefused] = {}
        """Of the host."""
        entries = 0
        deviations: tuple[Deviation, ...] = ()
        target = _ordered(wanted.state.host)
        wider = _union(described.host_state, target)
        digests: Mapping[str, bytes] | None = None
        is_new = False
        try:
            if wanted.audit:
                audited = await host.audit(wider)
                changes += audited.changes
                described, digests = audited.description, audited.digests
                refused |= {each.part: each for each in audited.refused}
            elif wider != _ordered(described.host_state):
                done = await host.sync(wider)
                changes += done.changes
                refused |= {each.part: each for each in done.refused}
                is_new = True
        except TargetRejected as exc:
            rejections.append(TargetRejected(str(exc), await self._lacking(host, target, str(exc))))
        try:
            delta = wanted.delta if wanted.delta is not None and wanted.delta.since == self._has else None
            self._has = -1
            report = await tables.sync(wanted.state.entries, delta=delta, read_back=wanted.audit, digests=digests)
            self._has = wanted.generation
            entries, deviations = report.writes, report.deviations
        except TargetRejected as exc:
            rejections.append(exc)
        try:
            if wider != target:
                done = await host.sync(target)
                changes += done.changes
                refused |= {each.part: each for each in done.refused}
                is_new = True
        except TargetRejected as exc:
            rejections.append(TargetRejected(str(exc), await self._lacking(host, target, str(exc))))
        if refused:
            words = "; ".join(each.reason for each in refused.values())
            rejections.append(TargetRejected(f"node {self.name}: {words}", tuple(refused.values())))
        if rejections:
            raise _together(rejections)
        owner = f"nodes/{self.name}"
        host_deviations = tuple(
            Deviation(node=self.name, what="changed", table="host", detail=change, owner=owner) for change in changes
        )
        synced = NodeSynced(
            node=self.name,
            generation=wanted.generation,
            writes=entries + len(changes),
            deviations=(*deviations, *host_deviations) if wanted.audit else (),
        )
        return synced, await host.describe() if is_new else described

    @staticmethod
    async def _lacking(host: HostClient, target: HostState, reason: str) -> tuple[PartRefused, ...]:
        """Tunnels and gateways that are not as they shall be, where all of a request was refused."""
        present = (await host.describe()).host_state
        in_use = {tunnel.border: tunnel for tunnel in reversed(target.tunnels)}  # the older keys come first
        tunnels = (
            f"tunnels/{tunnel.border}" + ("" if tunnel is in_use[tunnel.border] else f"/{tunnel.epoch}")
            for tunnel in target.tunnels
            if tunnel not in present.tunnels
        )
        gateways = (f"ports/{gateway.port}" for gateway in target.gateways if gateway not in present.gateways)
        return tuple(PartRefused(part=part, reason=reason) for part in (*tunnels, *gateways))


def open_channel(node: str, address: str, context: SessionContext) -> grpc.aio.Channel:
    """`address`: `unix:/path` or `host:port`, there with TLS only. Raises TargetUnreachable."""
    if address.startswith("unix:"):
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    if context.credentials is None:
        raise TargetUnreachable(
            f"node {node}: {address} needs TLS, and this controller has no `agent_tls` in its config"
        )
    return grpc.aio.secure_channel(address, context.credentials, options=CHANNEL_OPTIONS)


def _waits_for_handshake(description: NodeDescription) -> bool:
    """Of new tunnels, or with renewed keys."""
    return any(
        border.up and (not border.latest_handshake_s or any(not keys.sends for keys in border.keys[-1:]))
        for border in description.borders
    )


def _together(rejections: Sequence[TargetRejected]) -> TargetRejected:
    parts = [each.refused for each in rejections]
    known = None if None in parts else tuple(part for refused_parts in parts for part in refused_parts or ())
    return TargetRejected("; ".join(dict.fromkeys(map(str, rejections))), known)


def _union(present: HostState, wanted: HostState) -> HostState:
    """What is wanted, and the tunnels and gateways that are there beside it."""
    borders = {tunnel.border for tunnel in wanted.tunnels}
    ports = {gateway.port for gateway in wanted.gateways}
    return _ordered(
        HostState(
            gateways=(*wanted.gateways, *(each for each in present.gateways if each.port not in ports)),
            tunnels=(*wanted.tunnels, *(each for each in present.tunnels if each.border not in borders)),
            probes=present.probes,  # what they say of the paths of before holds until entries lead elsewhere
        )
    )


def _ordered(state: HostState) -> HostState:
    """So that equal states are equal."""
    return HostState(
        gateways=tuple(sorted(state.gateways, key=lambda each: each.port)),
        tunnels=tuple(sorted(state.tunnels, key=lambda each: (each.border, each.epoch))),
        probes=state.probes,
    )
