"""What all sessions with nodes have in common: they are told what is wanted, hear neighbours by LLDP, end with a
reason, and are tried again ever more seldom. What is said with a node is their subclasses'."""

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass

import grpc
import msgspec

from controller.errors import TargetRejected, TargetUnreachable
from controller.model.discovery import HeardHost, RemoteSystem
from controller.model.event import (
    Discovered,
    Measured,
    NodeDescribed,
    NodeRejected,
    NodeSynced,
    NodeUnreachable,
    SyncNode,
)
from controller.southbound.codec import Codec
from controller.southbound.host_discovery import HostDiscovery
from controller.southbound.lldp import ETHER_TYPE, LldpAgent
from dataplane.host_api import (
    CounterSample,
    FlowBatch,
    HostState,
    LostPackets,
    NodeDescription,
    PartRefused,
    PortRole,
    PortStatus,
    TelemetryBatch,
)

BACKOFF_S_MIN = 0.05
BACKOFF_S_MAX = 1.0
STEADY_S = 5.0
"""Who was connected for so long is tried again at once; who ends each session soon, ever later."""
FAULT_MAX = 2000
"""Characters that are told of why a session ended."""
WRONG = "what it answered cannot be worked on (a fault of netstitch, or of its agent)"
DISCOVERY_S_MIN, DISCOVERY_S_MAX = 1.0, 3600.0
"""Between two reports of what a node hears: a link on which neighbours come and go costs little."""

Report = Callable[
    [NodeDescribed | NodeUnreachable | NodeSynced | NodeRejected | Discovered | Measured], Awaitable[None]
]
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
    tls: ssl.SSLContext | None = None
    """The same for OpenFlow switches at `host:port`."""


class Session:
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
        self._sizes: dict[str, int] = {}
        """Of its tables and counters."""
        self._described: NodeDescription | None = None
        """As reported last in this session."""
        self._lldp = LldpAgent(context.domain, name)
        self._hosts = HostDiscovery()
        self._heard = asyncio.Event()
        """Its ports, or what these hear, may be others than it said."""
        self._has = -1
        """Generation whose entries it has, all of them, in this session."""

    async def flows(self, forwarding_class: int = -1) -> FlowBatch:
        """Read now. Raises TargetUnreachable or TargetRejected."""
        raise NotImplementedError

    async def drops(self) -> tuple[CounterSample, ...]:
        """By DropReason, read now. Raises TargetUnreachable or TargetRejected."""
        raise NotImplementedError

    async def losses(self) -> tuple[LostPackets, ...]:
        """Read now. Raises TargetUnreachable or TargetRejected."""
        raise NotImplementedError

    async def forwarding_classes(self) -> tuple[CounterSample, ...]:
        """What each forwarding class permitted, read now. Raises TargetUnreachable or TargetRejected."""
        raise NotImplementedError

    async def forwarding_class_drops(self) -> tuple[CounterSample, ...]:
        """What of it was dropped then, read now. Raises TargetUnreachable or TargetRejected."""
        raise NotImplementedError

    async def _session(self) -> None:
        """Returns never; raises TargetUnreachable or TargetRejected, perhaps in a group."""
        raise NotImplementedError

    def submit(self, wanted: SyncNode) -> None:
        """Replaces what still waits, and waits itself while the node cannot be reached."""
        waits = self._wanted
        if waits is None or wanted.generation >= waits.generation:
            older, newer = waits.delta if waits is not None else None, wanted.delta
            if waits is not None and older is not None and newer is not None and newer.since == waits.generation:
                wanted = msgspec.structs.replace(wanted, delta=older.then(newer.put, newer.gone))
            self._wanted = wanted
            self._arrived.set()

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

    def _begin(self) -> None:
        """A session is there, in which nothing is known to be told."""
        self.fault, self._described, self._has = "", None, -1
        self._lldp, self._hosts = LldpAgent(self._context.domain, self.name), HostDiscovery()

    async def _tell(self, description: NodeDescription) -> None:
        """Reports what the node is, if that is new in this session. What it has of what it shall have is the session's
        business: a report of it would have all entries of the node compared for each new probe."""
        description = msgspec.structs.replace(description, host_state=HostState())
        if description != self._described:
            self._described = description
            self._lldp.set_ports(_fabric_ports(description.ports), time.monotonic())
            self._hosts.set_ports([port.number for port in description.ports if port.role == PortRole.ATTACHMENT])
            self._heard.set()
            await self._context.report(NodeDescribed(node=self.name, description=description, sizes=self._sizes))

    def _punted(self, port: int, frame: bytes) -> None:
        hears = self._lldp.receive if int.from_bytes(frame[12:14]) == ETHER_TYPE else self._hosts.receive
        if hears(port, frame, time.monotonic(), time.time()):
            self._heard.set()

    async def _keep_tables_in_sync(self, make: Callable[[SyncNode], Awaitable[NodeSynced]]) -> None:
        """Of a node without an agent. `make` has it have what is wanted, or raises TargetRejected."""
        nothing_new: NodeSynced | None = None
        """What an audit comes to that finds what was told before."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            wanted, self._wanted = self._wanted, None
            if wanted is None:
                continue
            try:
                synced = await make(wanted)
                if parts := _host_parts(wanted):
                    reason = f"node {self.name} runs no agent: no hosts are attached to it, and no tunnel begins there"
                    raise TargetRejected(reason, tuple(PartRefused(part=part, reason=reason) for part in parts))
                if not wanted.audit or synced != nothing_new:
                    await self._context.report(synced)
                nothing_new = NodeSynced(node=self.name, generation=wanted.generation, writes=0)
            except TargetRejected as exc:
                nothing_new = None
                await self._context.report(
                    NodeRejected(node=self.name, generation=wanted.generation, reason=str(exc), refused=exc.refused)
                )
            except (TargetUnreachable, asyncio.CancelledError):  # as which the connection's end may come
                if self._wanted is None:  # nothing newer: it is still what is wanted when the node is back
                    self.submit(wanted)
                raise

    async def _discover(self, send: Callable[[int, bytes], Awaitable[None]]) -> None:
        """Sends what is due, and reports what the ports hear when that has changed."""
        told: tuple[tuple[RemoteSystem, ...], tuple[HeardHost, ...]] = ((), ())
        while True:
            for port, frame in self._lldp.due(time.monotonic()):
                await send(port, frame)
            self._lldp.expire(time.monotonic())
            self._hosts.expire(time.monotonic())
            heard = (self._lldp.remote_systems, self._hosts.hosts)
            if told != heard:
                told = heard
                systems, hosts = heard
                event = Discovered(node=self.name, remote_systems=systems, counts=self._lldp.counts, hosts=hosts)
                await self._context.report(event)
            await asyncio.sleep(DISCOVERY_S_MIN)
            until_s = min(min(self._lldp.next_s(), self._hosts.next_s()) - time.monotonic(), DISCOVERY_S_MAX)
            # Not `wait_for`: Python 3.11's forgets that it was cancelled where the time is up at the same moment.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, until_s)):
                    await self._heard.wait()
            self._heard.clear()


def _fabric_ports(ports: Iterable[PortStatus]) -> dict[int, tuple[bytes, str]]:
    """Number -> MAC and interface."""
    return {
        port.number: (bytes.fromhex(port.mac.replace(":", "")), port.interface)
        for port in ports
        if port.role == PortRole.FABRIC and port.mac
    }


def _host_parts(wanted: SyncNode) -> tuple[str, ...]:
    """What only an agent can do."""
    host = wanted.state.host
    return (
        *(f"tunnels/{tunnel.border}" for tunnel in host.tunnels),
        *(f"ports/{gateway.port}" for gateway in host.gateways),
    )


def _leaves(error: BaseException | None) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    elif error is not None:
        yield error
