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
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import grpc
import msgspec

from controller.errors import TargetRejected, TargetUnreachable
from controller.model.discovery import RemoteSystem
from controller.model.event import (
    Deviation,
    Discovered,
    NodeDescribed,
    NodeRejected,
    NodeSynced,
    NodeUnreachable,
    SyncNode,
)
from controller.southbound import p4runtime
from controller.southbound.codec import Codec
from controller.southbound.host import HostClient
from controller.southbound.lldp import LldpAgent
from controller.southbound.p4runtime import P4RuntimeClient
from dataplane import host_api
from dataplane.host_api import (
    CounterSample,
    FlowBatch,
    FlowQuery,
    HostState,
    LostPackets,
    NodeDescription,
    PartRefused,
    PortRole,
    PortStatus,
    TelemetryBatch,
    TelemetryQuery,
)

BACKOFF_S_MIN = 0.05
BACKOFF_S_MAX = 1.0
STEADY_S = 5.0
"""Who was connected for so long is tried again at once; who ends each session soon, ever later."""
TELEMETRY_RETRY_S = 2.0
FAULT_MAX = 2000
"""Characters that are told of why a session ended."""
WRONG = "what it answered cannot be worked on (a fault of netstitch, or of its agent)"
DISCOVERY_S_MIN, DISCOVERY_S_MAX = 1.0, 3600.0
"""Between two reports of what a node hears: a link on which neighbours come and go costs little."""
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

Report = Callable[[NodeDescribed | NodeUnreachable | NodeSynced | NodeRejected | Discovered], Awaitable[None]]
Observe = Callable[[str, TelemetryBatch], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionContext:
    """What all sessions of a controller share."""

    codec: Codec
    next_election_id: Callable[[], int]
    """Grows with each call, also from one process to the next: the newest session leads."""
    report: Report
    observe: Observe
    domain: str
    """As which nodes name themselves to what is behind their links."""
    credentials: grpc.ChannelCredentials | None = None
    """For agents at `host:port`; None: only `unix:` ones can be reached."""


FLOWS_MAX = 10_000
"""Of one node at a time."""


class NodeSession:
    """`run` until cancelled; `submit` at any time."""

    def __init__(self, name: str, agent: str, context: SessionContext) -> None:
        self.name = name
        self.agent = agent
        self.fault = f"node {name}: not connected yet"
        """Why there is no session now; empty: there is one."""
        self.telemetry_fault = ""
        self._context = context
        self._wanted: SyncNode | None = None
        self._arrived = asyncio.Event()
        self._clients: tuple[P4RuntimeClient, HostClient] | None = None
        self._sizes: dict[str, int] = {}
        """Of its tables and counters."""
        self._described: NodeDescription | None = None
        """As reported last in this session."""
        self._lldp = LldpAgent(context.domain, name)
        self._heard = asyncio.Event()
        """Its ports, or what these hear, may be others than it said."""
        self._has = -1
        """Generation whose entries it has, all of them, in this session."""

    def submit(self, wanted: SyncNode) -> None:
        """Replaces what still waits, and waits itself while the node cannot be reached."""
        waits = self._wanted
        if waits is None or wanted.generation >= waits.generation:
            older, newer = waits.delta if waits is not None else None, wanted.delta
            if waits is not None and older is not None and newer is not None and newer.since == waits.generation:
                wanted = msgspec.structs.replace(wanted, delta=older.then(newer.put, newer.gone))
            self._wanted = wanted
            self._arrived.set()

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

    async def run(self) -> None:
        delay_s = BACKOFF_S_MIN
        while True:
            began_s = time.monotonic()
            fault = await self._ending()
            if self.fault != fault:
                if time.monotonic() - began_s > STEADY_S:  # it was connected until now
                    delay_s = BACKOFF_S_MIN
                self.fault = fault
                await self._context.report(NodeUnreachable(node=self.name, reason=fault))
            await asyncio.sleep(random.uniform(delay_s / 2, delay_s))
            delay_s = min(2 * delay_s, BACKOFF_S_MAX)

    async def _ending(self) -> str:
        """Why a session ended. It is a task of its own, since a TaskGroup that fails just when its task is cancelled
        keeps that to itself (Python 3.11)."""
        session = asyncio.ensure_future(self._session())
        try:
            await asyncio.wait({session})
        finally:
            session.cancel()
            await asyncio.wait({session})
            failure = None if session.cancelled() else session.exception()
        faults = [] if failure is not None else [f"node {self.name}: the connection was given up"]
        for error in _leaves(failure):
            known = isinstance(error, TargetUnreachable | TargetRejected)
            # what a node says is foreign: whatever comes of it ends this session alone
            faults.append(str(error) if known else f"node {self.name}: {WRONG}: {type(error).__name__}: {error}")
        return "; ".join(dict.fromkeys(faults))[:FAULT_MAX]

    async def _session(self) -> None:
        """Returns never; raises TargetUnreachable or TargetRejected, perhaps in a group."""
        channel = self._open()
        tables = P4RuntimeClient(self.name, channel, self._context.codec, self._context.next_election_id())
        host = HostClient(self.name, channel)
        try:
            await tables.become_primary()
            self._sizes = await tables.ensure_pipeline()
            description = await host.describe()
            self._clients, self.fault, self._described, self._has = (tables, host), "", None, -1
            self._lldp = LldpAgent(self._context.domain, self.name)
            await self._tell(description)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(tables.hold(self._punted), name=f"{self.name} stream")
                tasks.create_task(self._discover(tables), name=f"{self.name} discovery")
                tasks.create_task(self._watch(host, description.ports), name=f"{self.name} telemetry")
                tasks.create_task(self._keep_in_sync(tables, host, description), name=f"{self.name} sync")
        finally:
            self._clients = None
            tables.close()
            await channel.close()

    def _open(self) -> grpc.aio.Channel:
        if self.agent.startswith("unix:"):
            return grpc.aio.insecure_channel(self.agent, options=CHANNEL_OPTIONS)
        if self._context.credentials is None:
            raise TargetUnreachable(
                f"node {self.name}: {self.agent} needs TLS, and this controller has no `agent_tls` in its config"
            )
        return grpc.aio.secure_channel(self.agent, self._context.credentials, options=CHANNEL_OPTIONS)

    def _connected(self) -> tuple[P4RuntimeClient, HostClient]:
        if self._clients is None:
            raise TargetUnreachable(self.fault or f"node {self.name}: not connected")
        return self._clients

    async def _tell(self, description: NodeDescription) -> None:
        """Reports what the node is, if that is new in this session."""
        if description != self._described:
            self._described = description
            ports = {
                port.number: (bytes.fromhex(port.mac.replace(":", "")), port.interface)
                for port in description.ports
                if port.role == PortRole.FABRIC and port.mac
            }
            self._lldp.set_ports(ports, time.monotonic())
            self._heard.set()
            await self._context.report(NodeDescribed(node=self.name, description=description, sizes=self._sizes))

    def _punted(self, port: int, frame: bytes) -> None:
        if self._lldp.receive(port, frame, time.monotonic(), time.time()):
            self._heard.set()

    async def _discover(self, tables: P4RuntimeClient) -> None:
        """Sends what is due, and reports what the ports hear when that has changed."""
        told: tuple[RemoteSystem, ...] = ()
        while True:
            for port, frame in self._lldp.due(time.monotonic()):
                await tables.send(port, frame)
            self._lldp.expire(time.monotonic())
            if told != self._lldp.remote_systems:
                told = self._lldp.remote_systems
                await self._context.report(Discovered(node=self.name, remote_systems=told, counts=self._lldp.counts))
            await asyncio.sleep(DISCOVERY_S_MIN)
            until_s = min(self._lldp.next_s() - time.monotonic(), DISCOVERY_S_MAX)
            # Not `wait_for`: Python 3.11's forgets that it was cancelled where the time is up at the same moment.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, until_s)):
                    await self._heard.wait()
            self._heard.clear()

    async def _watch(self, host: HostClient, ports: Sequence[PortStatus]) -> None:
        """Telemetry is worth having, but nothing depends on it: a failure is shown, and tried again.

        A node whose carriers have changed is asked what it is now, not only at the next audit.
        """
        carriers = {port.number: port.carrier for port in ports}
        while True:
            try:
                async for batch in host.telemetry(TelemetryQuery()):
                    self.telemetry_fault = ""
                    self._context.observe(self.name, batch)
                    seen = {port.number: port.carrier for port in batch.ports if port.number in carriers}
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
        tunnels = (f"tunnels/{tunnel.border}" for tunnel in target.tunnels if tunnel not in present.tunnels)
        gateways = (f"ports/{gateway.port}" for gateway in target.gateways if gateway not in present.gateways)
        return tuple(PartRefused(part=part, reason=reason) for part in (*tunnels, *gateways))


def _waits_for_handshake(description: NodeDescription) -> bool:
    return any(border.up and not border.latest_handshake_s for border in description.borders)


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
        )
    )


def _ordered(state: HostState) -> HostState:
    """So that equal states are equal."""
    return HostState(
        gateways=tuple(sorted(state.gateways, key=lambda each: each.port)),
        tunnels=tuple(sorted(state.tunnels, key=lambda each: each.border)),
    )


def _leaves(error: BaseException | None) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    elif error is not None:
        yield error
