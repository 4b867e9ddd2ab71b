"""One node: its ports, tunnels, flows and counters together, as the service netstitch.Host shows them."""

import asyncio
import contextlib
import os
import platform
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import structlog

from dataplane.errors import AgentError, RequestInvalid
from dataplane.host import nftables
from dataplane.host.kernel_events import HOST, LINKS, KernelEvents
from dataplane.host.neighbors import Neighbors
from dataplane.host.netlink import NETFILTER
from dataplane.host.ports import Port, Ports
from dataplane.host_api import (
    AgentConfig,
    AuditReport,
    BorderStatus,
    Capabilities,
    CapturedFrame,
    CaptureQuery,
    FlowBatch,
    FlowQuery,
    HostReport,
    HostState,
    LossReport,
    NodeDescription,
    PartRefused,
    PortRole,
    PortStatus,
    TelemetryBatch,
    TelemetryQuery,
    Tunnel,
)
from dataplane.log import Logger
from dataplane.probes.prober import Prober
from dataplane.reasons import CONTAINERS, MAX_SEGMENTS, PROBES
from dataplane.state import boot_epoch_s
from dataplane.tables.node_tables import Tables
from dataplane.tables.table_digest import TableDigests
from dataplane.telemetry.losses import Losses
from dataplane.telemetry.stream import Telemetry
from dataplane.version import VERSION
from dataplane.wireguard.tunnels import DeviceStates, Tunnels
from dataplane.xdp.capture import Capture
from dataplane.xdp.flow_cache import FlowCache, merged

_log: Logger = structlog.get_logger("stitch-agent")
_Result = TypeVar("_Result")
_Status = TypeVar("_Status", PortStatus, BorderStatus)
_HANDSHAKE_WAITS_S = (0.2, 0.4, 0.8, 1.6)
_RENEWAL_LOOK_S = 0.1
_RENEWAL_LOOKS = 100
_LOOK_AGAIN_S = 10.0
_LOOK_AT_ALL_S = 60.0
"""Settings in /proc/sys and neighbours make no events that are worth following."""
_LINK_EVENTS_APART_S = 0.05
_MIB = 1 << 20
_INTERVALS_S = (0.1, 3600.0)
_QUEUE_LENGTHS = (1, 4096)
CAPABILITIES = Capabilities(
    dataplane="xdp",
    kernel=platform.release(),
    cpus=os.cpu_count() or 0,
    h_encaps_segments=CONTAINERS,
    srh_segments=MAX_SEGMENTS,
    meters=0,  # the pipeline has none
    packed_flows=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    config: AgentConfig
    layout: str
    ports: Ports
    port_statuses: Callable[[], tuple[PortStatus, ...]]
    """With what probes say of them."""
    tunnels: Tunnels
    flows: FlowCache
    telemetry: Telemetry
    tables: Tables
    neighbors: Neighbors
    digests: TableDigests
    losses: Losses
    prober: Prober | None
    """None: the configuration says that no probes are sent."""
    maps_bytes: Callable[[], int]
    """Memory of all BPF maps."""


@dataclass(frozen=True, slots=True)
class _Done:
    """What a sync came to."""

    changes: tuple[str, ...]
    refused: tuple[PartRefused, ...]
    states: DeviceStates | None = None
    """Of the tunnels, where they are as they shall be."""


@dataclass(frozen=True, slots=True)
class _Settled:
    """All tunnels, and what they are made of, were looked at, and nothing was different."""

    tunnels: tuple[Tunnel, ...]
    touches: int
    at_s: float

    def holds(self, tunnels: tuple[Tunnel, ...], touches: int) -> bool:
        fresh = time.monotonic() - self.at_s < _LOOK_AT_ALL_S
        return (self.tunnels, self.touches) == (tunnels, touches) and fresh


class Agent:
    """Implements dataplane.host.service.Host."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        # Interfaces, tunnels and the maps of ports change in one thread, one request after the other.
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="node")
        self._links_changed = asyncio.Event()
        self._touches = 0
        """How often something of this host changed that tunnels are made of."""
        self._settled: _Settled | None = None
        self._refused: tuple[PartRefused, ...] = ()
        """By the last sync."""
        self._tunnels_changed = asyncio.Event()
        self._keys_changed = asyncio.Event()
        self._maps_measured = float("-inf"), 0
        """When, and how many bytes."""
        self._losing: frozenset[int] = frozenset()
        self._boot_epoch_s: int | None = None
        """As told last."""
        self._capture = Capture(parts.ports.number_of, self._switch_capture)

    @property
    def wireguard(self) -> str:
        return self._parts.tunnels.software

    async def run(self) -> None:
        """Follows interfaces that come and go, new tunnels until they shook hands, and hosts. Until cancelled."""
        read_ports_anew = self._parts.ports.follow()

        def links_changed() -> None:
            read_ports_anew()
            self._links_changed.set()

        events = (
            KernelEvents(links_changed, LINKS),
            KernelEvents(self._touch, HOST),
            KernelEvents(self._touch, (nftables.EVENTS,), NETFILTER),
        )
        self._tunnels_changed.set()
        self._keys_changed.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow_links())
                group.create_task(self._follow_handshakes())
                group.create_task(self._follow_renewals())
                group.create_task(self._parts.neighbors.run())
        finally:
            for each in events:
                each.close()
            if self._parts.prober is not None:
                self._parts.prober.close()

    def _touch(self) -> None:
        self._touches += 1

    def mirrored(self, record: bytes) -> None:
        """One record of the ring buffer `capture`."""
        self._capture.receive(record)

    def not_sent(self, port: int) -> None:
        """A packet that came in at `port` was to be cut, and not all of its pieces were sent."""
        self._parts.losses.unsent[port] += 1

    async def describe(self) -> NodeDescription:
        return await self._in_worker(self._describe)

    async def sync(self, desired: HostState) -> HostReport:
        done = await self._in_worker(lambda: self._sync(desired))
        self._synced(done)
        return HostReport(changes=done.changes, refused=done.refused)

    def _synced(self, done: _Done) -> None:
        for each in done.refused:
            if each not in self._refused:
                _log.error("part_refused", part=each.part, reason=each.reason)
        self._refused = done.refused
        for change in done.changes:
            _log.info("synced", change=change)
        self._tunnels_changed.set()
        self._keys_changed.set()
        self._parts.neighbors.look()

    async def audit(self, desired: HostState) -> AuditReport:
        done, description = await self._in_worker(lambda: self._audit(desired))
        if done.changes or done.refused != self._refused:
            self._synced(done)
        # In the loop: writes happen there, so that no digest is of half a batch.
        return AuditReport(
            changes=done.changes,
            refused=done.refused,
            digests=self._parts.digests.read(),
            description=description,
        )

    async def read_flows(self, query: FlowQuery) -> FlowBatch:
        if not -1 <= query.forwarding_class < 1 << 16 or not 0 <= query.limit <= 1_000_000:
            raise RequestInvalid(f"{query}: forwarding_class is -1 (all) to 65535, limit 0 to 1000000")
        return await asyncio.to_thread(self._read_flows, query)

    async def read_losses(self) -> LossReport:
        return LossReport(losses=await self._in_worker(lambda: self._parts.losses.read(self._name_of)))

    def _name_of(self, port: int) -> str:
        try:
            return self._parts.ports.interface(port)
        except RequestInvalid:  # it was a port when it lost something
            return ""

    async def watch_telemetry(self, query: TelemetryQuery, send: Callable[[TelemetryBatch], Awaitable[None]]) -> None:
        if not _INTERVALS_S[0] <= query.interval_s <= _INTERVALS_S[1]:
            raise RequestInvalid(f"interval_s {query.interval_s} is not in {_INTERVALS_S[0]}..{_INTERVALS_S[1]}")
        if not _QUEUE_LENGTHS[0] <= query.queue_length <= _QUEUE_LENGTHS[1]:
            raise RequestInvalid(
                f"queue_length {query.queue_length} is not in {_QUEUE_LENGTHS[0]}..{_QUEUE_LENGTHS[1]}"
            )
        await self._parts.telemetry.watch(query, send)

    async def capture(self, query: CaptureQuery, send: Callable[[CapturedFrame], Awaitable[None]]) -> None:
        await self._in_worker(lambda: self._parts.ports.check_captured(query.port))
        await self._capture.watch(query, send)

    async def place_ports(self) -> tuple[str, ...]:
        """Ports of the configuration and of tunnels that exist; returns what was different, in words."""
        return await self._in_worker(self._place_ports)

    def _place_ports(self) -> tuple[str, ...]:
        return self._parts.ports.sync(self._wanted_ports(frozenset(b.name for b in self._parts.config.borders)))

    def _audit(self, desired: HostState) -> tuple[_Done, NodeDescription]:
        done = self._sync(desired)
        return done, self._describe(done.states)

    def _sync(self, desired: HostState) -> _Done:
        """A tunnel's port leaves the pipeline before its devices go, and joins it when they are there.

        Where nothing has happened since all was found as it shall be, only what makes no events is looked at.
        """
        ports, tunnels, touches = self._parts.ports, self._parts.tunnels, self._touches
        if self._parts.prober is not None:
            self._parts.prober.sync(desired.probes)
        changes, refused = ports.set_gateways(desired.gateways)
        if self._settled is not None and self._settled.holds(desired.tunnels, touches):
            states = tunnels.read()
            if tunnels.are_as(desired.tunnels, states):
                return _Done(changes, refused, states)
        self._settled = None
        left = ports.sync(self._wanted_ports(frozenset(tunnel.border for tunnel in desired.tunnels)))
        made, not_made = tunnels.sync(desired.tunnels)
        changes = (*changes, *left, *made, *self._place_ports())
        refused += not_made + self._unplaced(desired.tunnels, {each.part for each in not_made})
        if not changes and not refused:
            self._settled = _Settled(desired.tunnels, touches, time.monotonic())
        return _Done(changes, refused)

    def _unplaced(self, tunnels: Iterable[Tunnel], known: Collection[str]) -> tuple[PartRefused, ...]:
        """Tunnels that are there, but not in the pipeline."""
        numbers = {border.name: border.port for border in self._parts.config.borders}
        return tuple(
            PartRefused(part=f"tunnels/{name}", reason=f"tunnel {name}: {fault}")
            for name in sorted({tunnel.border for tunnel in tunnels})
            if f"tunnels/{name}" not in known and (fault := self._parts.ports.fault(numbers[name]))
        )

    def _wanted_ports(self, borders: frozenset[str]) -> list[Port]:
        parts = self._parts
        wanted = [Port(number=p.number, interface=p.interface, role=p.role, way=p.way) for p in parts.config.ports]
        there = dict(parts.tunnels.ports())
        return wanted + [
            Port(number=border.port, interface=there[border.port], role=PortRole.FABRIC)
            for border in parts.config.borders
            if border.name in borders and border.port in there
        ]

    async def metrics(self) -> bytes:
        """For Prometheus. Raises OSError."""
        from dataplane.telemetry.metrics import Figures, text  # 5 MB, for the agents that are asked for it

        parts = self._parts
        description = await self._in_worker(self._describe)
        reading = await asyncio.to_thread(parts.telemetry.read)
        figures = Figures(
            description=description,
            forwarding_classes=reading.forwarding_classes,
            forwarding_class_drops=parts.telemetry.forwarding_class_drops(),
            drops=reading.drops,
            events=parts.telemetry.events(),
            tables=parts.tables.fill(),
            flows=len(reading.snapshot),
            neighbors=parts.neighbors.known(),
            losses=(await self.read_losses()).losses,
            probes=parts.prober.read() if parts.prober is not None else (),
        )
        return await asyncio.to_thread(text, figures)

    def _describe(self, states: DeviceStates | None = None) -> NodeDescription:
        """`states`: of the tunnels, as just read."""
        parts = self._parts
        states = parts.tunnels.read() if states is None else states
        self._boot_epoch_s = boot_epoch_s(Path(parts.config.state_dir), self._boot_epoch_s)
        configured = {port.number for port in parts.config.ports}
        return NodeDescription(
            name=parts.config.name,
            software=f"stitch-agent {VERSION}",
            wireguard=parts.tunnels.software,
            boot_epoch_s=self._boot_epoch_s,
            layout=parts.layout,
            probes_max=PROBES if parts.prober is not None else 0,
            maps_bytes=self._maps_bytes(),
            capabilities=CAPABILITIES,
            ports=tuple(
                self._with_losses(port, port.interface, port.number)
                for port in parts.port_statuses()
                if port.number in configured
            ),
            borders=tuple(
                self._with_losses(tunnel, f"the tunnel {tunnel.name}", tunnel.port)
                for tunnel in parts.tunnels.status(states)
            ),
            host_state=HostState(
                gateways=parts.ports.gateways(),
                tunnels=parts.tunnels.actual(states),
                probes=parts.prober.probes if parts.prober is not None else (),
            ),
        )

    def _maps_bytes(self) -> int:
        """Asked for seldom: it is a file of each map to read."""
        now_s = time.monotonic()
        if now_s - self._maps_measured[0] > _LOOK_AT_ALL_S:
            # Whole MiB, so that a description does not change with each entry.
            self._maps_measured = now_s, -(-self._parts.maps_bytes() // _MIB) * _MIB
        return self._maps_measured[1]

    def _with_losses(self, status: _Status, name: str, number: int) -> _Status:
        if number not in self._losing:
            return status
        fault = f"{name} loses packets all the time: see `stitch get drops`"
        return msgspec.structs.replace(status, faults=(*status.faults, fault))

    def _read_flows(self, query: FlowQuery) -> FlowBatch:
        entries = self._parts.flows.snapshot().entries
        if query.forwarding_class >= 0:
            entries = entries[entries["forwarding_class"] == query.forwarding_class]
        flows = merged(self._parts.flows.columns(entries), entries, np.ones(len(entries), dtype=bool))
        records = flows.take(np.arange(min(len(flows), query.limit))).records()
        return FlowBatch(time_s=time.time(), flows=records, truncated=len(flows) > query.limit)

    async def _follow_links(self) -> None:
        while True:
            # Not `wait_for`: see Neighbors.run.
            with contextlib.suppress(TimeoutError):  # what is behind a veth changes without an event here
                async with asyncio.timeout(_LOOK_AGAIN_S):
                    await self._links_changed.wait()
            told = self._links_changed.is_set()
            self._links_changed.clear()
            try:
                for change in await self.place_ports():
                    _log.info("interfaces_changed", change=change)
                if self._parts.prober is not None:
                    await self._in_worker(self._parts.prober.refresh)
                if not told:
                    self._losing = await self._in_worker(self._parts.losses.look)
            except (AgentError, OSError) as error:
                _log.error("ports_cannot_follow", reason=str(error))
            if told:
                self._parts.neighbors.begin_anew()
            await asyncio.sleep(_LINK_EVENTS_APART_S)

    async def _follow_handshakes(self) -> None:
        """Both ends of a new tunnel wait, each a time of its own, and begin anew where nobody answered."""
        while True:
            await self._tunnels_changed.wait()
            self._tunnels_changed.clear()
            for wait_s in _HANDSHAKE_WAITS_S:
                await asyncio.sleep(wait_s * random.uniform(0.75, 1.25))
                try:
                    if not await self._in_worker(self._parts.tunnels.start_handshakes):
                        break
                except AgentError as error:
                    _log.warning("handshake_failed", reason=str(error))

    async def _follow_renewals(self) -> None:
        """What leaves takes renewed keys as soon as both ends have them; what takes longer the next audit finds."""
        while True:
            await self._keys_changed.wait()
            self._keys_changed.clear()
            for _ in range(_RENEWAL_LOOKS):
                try:
                    if not await self._in_worker(self._parts.tunnels.take_newest):
                        break
                except AgentError as error:
                    _log.warning("keys_not_taken", reason=str(error))
                await asyncio.sleep(_RENEWAL_LOOK_S)

    def _switch_capture(self, port: int, on: bool) -> None:
        self._worker.submit(self._parts.ports.set_capture, port, on)

    def _in_worker(self, action: Callable[[], _Result]) -> Awaitable[_Result]:
        return asyncio.get_running_loop().run_in_executor(self._worker, action)
