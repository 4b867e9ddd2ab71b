"""What the controller can say about traffic and health: model.telemetry.Telemetry, asked of the nodes on demand.

Of the nodes' streams it keeps what is small: their ports, and how much came and was lost.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from controller import machine, process
from controller.assessing import Assessing
from controller.contained import Raised
from controller.errors import TargetRejected, TargetUnreachable
from controller.export.collector import Collector
from controller.model.flow_columns import FlowColumns
from controller.model.resource import Resource
from controller.model.telemetry import Carried, Check, Metric, NodeDrops, NodeFlows, Sample
from controller.reconcile.state import State
from controller.shell import Shell
from controller.traffic import Traffic
from controller.views import doctor, resource_view
from dataplane.host_api import CounterSample, FlowBatch, LostPackets, PortStatus, TelemetryBatch
from dataplane.telemetry.packed_flows import PACKED

NODE_S_MAX = 5.0
"""For one node's answer; the others do not wait longer for it."""

CLASSES_MAX = 16
"""That are asked for one by one."""

_FIRST = ("intents", "agreements")
"""What people look for comes first."""

_Answer = TypeVar("_Answer")


class Observed(Protocol):
    """The nodes. Raises TargetUnreachable or TargetRejected."""

    def names(self) -> tuple[str, ...]: ...

    def fault(self, node: str) -> str:
        """Why there is no session with it now; empty: there is one."""

    def telemetry_fault(self, node: str) -> str: ...

    async def flows(self, node: str, forwarding_class: int = -1) -> FlowBatch: ...

    async def drops(self, node: str) -> tuple[CounterSample, ...]: ...

    async def losses(self, node: str) -> tuple[LostPackets, ...]: ...

    async def forwarding_classes(self, node: str) -> tuple[CounterSample, ...]: ...

    async def forwarding_class_drops(self, node: str) -> tuple[CounterSample, ...]: ...


class Neighbourhood(Protocol):
    def skews(self) -> Mapping[str, float]: ...

    async def faults(self) -> Mapping[str, str]:
        """By domain, why it cannot be reached now, or did not take the newest message; empty: all is well."""

    def refusals(self) -> Mapping[tuple[str, str], int]:
        """How often what came was more than a share allows: by domain (empty: strangers), and share."""


class StreamTally:
    """What arrived by the nodes' telemetry streams."""

    def __init__(self) -> None:
        self.batches: Counter[str] = Counter()
        self.flow_records: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.ports: dict[str, tuple[PortStatus, ...]] = {}
        self.skew_s: dict[str, float] = {}
        """How far a node's clock was ahead of ours when it was last heard."""
        self._lost_in_stream: dict[str, int] = {}

    def observe(self, node: str, batch: TelemetryBatch) -> None:
        before = self._lost_in_stream.get(node, 0)
        # A smaller number than before: a new stream, which counts from 0.
        self.lost[node] += batch.lost_batches - (before if batch.lost_batches >= before else 0)
        self._lost_in_stream[node] = batch.lost_batches
        self.skew_s[node] = batch.time_s - time.time()
        self.batches[node] += 1
        self.flow_records[node] += len(batch.flows) + len(batch.packed_flows) // PACKED.itemsize
        if batch.ports:
            self.ports[node] = batch.ports


class NodeTelemetry:
    """Implements model.telemetry.Telemetry."""

    def __init__(
        self,
        shell: Shell,
        nodes: Observed,
        neighbourhood: Neighbourhood,
        tally: StreamTally,
        traffic: Traffic,
        *,
        store: Path | None = None,
        certificates: Mapping[str, bytes] | None = None,
        collector: Collector | None = None,
        assessing: Assessing | None = None,
    ) -> None:
        """`certificates`: our own, in PEM, by what they are for; they may be renewed meanwhile."""
        self._shell = shell
        self._nodes = nodes
        self._neighbourhood = neighbourhood
        self._tally = tally
        self._traffic = traffic
        self._collector = collector
        self._assessing = assessing
        self._store = store
        self._own_certificates = certificates or {}

    async def flows(self, concerns: Callable[[str], bool] | None = None) -> tuple[NodeFlows, ...]:
        """`concerns`: only what these owners have; then the others' do not count against what a node tells at once."""
        owners = await asyncio.to_thread(_owners, self._shell.state)

        async def read(node: str) -> FlowBatch:
            if concerns is None:
                return await self._nodes.flows(node, -1)
            numbers = [number for number, owner in sorted(owners.get(node, {}).items()) if concerns(owner)]
            if len(numbers) > CLASSES_MAX:
                return await self._nodes.flows(node, -1)
            batches = [await self._nodes.flows(node, number) for number in numbers]
            return FlowBatch(
                time_s=max((batch.time_s for batch in batches), default=time.time()),
                flows=tuple(flow for batch in batches for flow in batch.flows),
                truncated=any(batch.truncated for batch in batches),
            )

        batches = await self._of_all(read)
        return tuple(NodeFlows(node=node, batch=batch, owners=owners.get(node, {})) for node, batch in batches.items())

    def recent_flows(self, after_s: float) -> FlowColumns:
        return self._traffic.flows(after_s)

    async def drops(self) -> tuple[NodeDrops, ...]:
        counters, losses = await asyncio.gather(self._of_all(self._nodes.drops), self._of_all(self._nodes.losses))
        return tuple(NodeDrops(node=node, drops=drops, losses=losses.get(node, ())) for node, drops in counters.items())

    async def carried(self) -> tuple[Carried, ...]:
        carried, dropped = await asyncio.gather(
            self._by_owner(self._nodes.forwarding_classes), self._by_owner(self._nodes.forwarding_class_drops)
        )
        return await asyncio.to_thread(_carried, carried, dropped)

    async def _by_owner(
        self, read: Callable[[str], Awaitable[tuple[CounterSample, ...]]]
    ) -> dict[tuple[str, str], tuple[int, int]]:
        """Packets and bytes by node and owner."""
        return await asyncio.to_thread(_totals, self._shell.state, await self._of_all(read))

    async def checks(self) -> tuple[Check, ...]:
        state, now_s = self._shell.state, time.time()
        rows = await asyncio.to_thread(lambda: [*doctor.checks(state, now_s)])
        faults = {node: self._nodes.fault(node) for node in self._nodes.names()}
        for node, fault in faults.items():
            subject, telemetry_fault = f"nodes/{node}", self._nodes.telemetry_fault(node)
            advice = f"see that {node} runs, and listens where `agent` of its manifest says"
            rows.append(_check(subject, "reachable", fault, advice))
            if not fault:
                rows.append(_check(subject, "telemetry", telemetry_fault, f"see the log of stitch-agent on {node}"))
        skews = {node: skew for node, skew in self._tally.skew_s.items() if not faults.get(node, "gone")}
        rows += machine.skews("nodes", skews)
        distant = await self._neighbourhood.faults()
        rows += machine.skews(
            "domains", {peer: skew for peer, skew in self._neighbourhood.skews().items() if not distant.get(peer)}
        )
        for domain, fault in sorted(distant.items()):
            rows.append(_check(f"domains/{domain}", "reachable", fault, _peer_advice(domain, fault)))
        rows += machine.certificates(self._certificates(), now_s)
        if self._store is not None:
            rows += machine.disks(self._store)
        advice = "make room on its file system: until then nothing new is stored, and it goes on by itself"
        rows.append(_check("store", "written", self._shell.full, advice))
        rows.append(machine.clock(alone=self._is_alone()))
        rows += map(_contained_check, self._shell.contained.newest.values(), self._shell.contained.counts.values())
        rows += filter(None, map(_plugin_check, self._shell.list("plugins")))
        return tuple(sorted(rows, key=lambda row: (row.subject.split("/")[0] not in _FIRST, row.subject)))

    def _certificates(self) -> dict[str, bytes]:
        certificates = dict(self._own_certificates)
        for domain in self._shell.state.inventory.domains.values():
            if domain.certificate:
                certificates[f"domains/{domain.name}"] = domain.certificate.encode()
        return certificates

    def _is_alone(self) -> bool:
        """No agent and no peer is on another machine."""
        inventory = self._shell.state.inventory
        places = [node.agent for node in inventory.nodes.values()]
        places += [domain.endpoint for domain in inventory.domains.values() if domain.endpoint and not domain.own]
        return all(place.startswith(("unix:", "127.", "[::1]", "localhost:")) for place in places)

    async def metrics(self) -> tuple[Metric, ...]:
        ports = await asyncio.to_thread(_carriers, dict(self._tally.ports))
        return (*self._own_metrics(), ports)

    def _own_metrics(self) -> tuple[Metric, ...]:
        tally, counts = self._tally, self._shell.counts
        steps = Counter({name: count for name, count in counts.items() if name[0].isupper()})
        return (
            *process.metrics(),
            _family("netstitch_events_total", "Events that were stepped", "kind", steps),
            _single("netstitch_step_seconds_total", "Time spent in step", "counter", counts["steps_us"] / 1e6),
            _single("netstitch_commits_total", "Commits of the store", "counter", counts["commits"]),
            _family(
                "netstitch_events_refused_total",
                "Events that a fault of netstitch kept from being stepped",
                "source",
                self._shell.contained.counts,
            ),
            _single("netstitch_ticks_lost_total", "Ticks that a full queue dropped", "counter", counts["ticks_lost"]),
            _single("netstitch_store_full", "1: there is no room to store anything", "gauge", bool(self._shell.full)),
            _single(
                "netstitch_log_lines_dropped_total",
                "Lines of the log that were more than a peer's share",
                "counter",
                counts["lines_dropped"],
            ),
            Metric(
                name="netstitch_refused_calls_total",
                help="What came from other domains and was more than their share, or was no message",
                kind="counter",
                samples=tuple(
                    Sample(labels=(("domain", domain), ("share", share)), value=float(count))
                    for (domain, share), count in sorted(self._neighbourhood.refusals().items())
                ),
            ),
            _single("netstitch_events_queued", "Events that wait", "gauge", self._shell.queued),
            _family("netstitch_telemetry_batches_total", "Batches that arrived by stream", "node", tally.batches),
            _family("netstitch_telemetry_batches_lost_total", "Batches that a full queue dropped", "node", tally.lost),
            _family("netstitch_flow_records_total", "Flow records that arrived", "node", tally.flow_records),
            *self._traffic.metrics(),
            *(self._collector.metrics() if self._collector is not None else ()),
            *(self._assessing.metrics() if self._assessing is not None else ()),
        )

    async def _of_all(self, ask: Callable[[str], Awaitable[_Answer]]) -> dict[str, _Answer]:
        """In parallel; who does not answer is left out, and fails its check."""

        async def ask_one(node: str) -> _Answer | None:
            try:
                async with asyncio.timeout(NODE_S_MAX):
                    return await ask(node)
            except (TargetUnreachable, TargetRejected, TimeoutError):
                return None

        names = self._nodes.names()
        answers = await asyncio.gather(*(ask_one(node) for node in names))
        return {node: answer for node, answer in zip(names, answers, strict=True) if answer is not None}


# ---- in threads, since they look at every node or entry


def _owners(state: State) -> dict[str, dict[int, str]]:
    """By node and forwarding class."""
    owners: dict[str, dict[int, str]] = {}
    for (node, number), owner in resource_view.forwarding_classes(state).items():
        owners.setdefault(node, {})[number] = owner
    return owners


def _totals(state: State, counted: Mapping[str, tuple[CounterSample, ...]]) -> dict[tuple[str, str], tuple[int, int]]:
    """Packets and bytes by node and owner."""
    owners = resource_view.forwarding_classes(state)
    totals: dict[tuple[str, str], tuple[int, int]] = {}
    for node, samples in counted.items():
        for sample in samples:
            if owner := owners.get((node, sample.index)):
                packets, octets = totals.get((node, owner), (0, 0))
                totals[node, owner] = packets + sample.packets, octets + sample.bytes
    return totals


def _carried(
    carried: Mapping[tuple[str, str], tuple[int, int]], dropped: Mapping[tuple[str, str], tuple[int, int]]
) -> tuple[Carried, ...]:
    return tuple(
        Carried(
            node=node,
            owner=owner,
            packets=packets,
            bytes=octets,
            dropped_packets=dropped.get((node, owner), (0, 0))[0],
            dropped_bytes=dropped.get((node, owner), (0, 0))[1],
        )
        for (node, owner), (packets, octets) in sorted(carried.items())
    )


def _carriers(ports: Mapping[str, tuple[PortStatus, ...]]) -> Metric:
    samples = tuple(
        Sample(labels=(("node", node), ("interface", port.interface)), value=float(port.carrier))
        for node, ports_of in sorted(ports.items())
        for port in ports_of
    )
    return Metric(name="netstitch_port_carrier", help="1: the port has a carrier", kind="gauge", samples=samples)


# ---- rows of doctor


def _peer_advice(domain: str, fault: str) -> str:
    """What to do depends on why it is not reached."""
    said = fault.lower()
    if "do not belong together" in said or "self-signed" in said:
        return f"`stitch domain add {domain}` with key and certificate of one and the same `stitchd keygen`"
    if "refuses us" in said or "is no peer" in said or "permission_denied" in said or "unauthenticated" in said:
        return f"ask the operator of {domain} to add this domain, with its key, certificate and endpoint"
    if "certificate" in said or "handshake" in said or "ssl" in said:
        return f"both sides must have pinned each other's key and certificate; compare with {domain}, clocks too"
    return f"see that the controller of {domain} runs and can be reached, and that both sides pinned each other's key"


def _contained_check(newest: Raised, count: int) -> Check:
    """Of one source, from which something came that ended in a fault of ours."""
    detail = f"{count} were refused since the start by a fault of netstitch; the newest, {newest.kind}: {newest.fault}"
    advice = f"report it with the line event_refused of the log that has digest {newest.digest[:16]}"
    return Check(subject=newest.source, name="events", ok=False, detail=detail, advice=advice)


def _plugin_check(plugin: Resource) -> Check | None:
    """Whether it can do harm beside what it answers; None: it is not asked here."""
    if "contained" not in plugin.status:
        return None
    fault = "; ".join(plugin.status.get("lacking", ()))
    advice = "run stitchd where it may make namespaces and control groups (docs/security.md), or do without the plugin"
    return _check(f"plugins/{plugin.metadata['name']}", "contained", fault, advice)


def _check(subject: str, name: str, fault: str, advice: str) -> Check:
    return Check(subject=subject, name=name, ok=not fault, detail=fault or "yes", advice=advice if fault else "")


def _single(name: str, help_text: str, kind: str, value: float) -> Metric:
    return Metric(name=name, help=help_text, kind=kind, samples=(Sample(value=float(value)),))


def _family(name: str, help_text: str, label: str, counts: Mapping[str, int]) -> Metric:
    samples = tuple(Sample(labels=((label, key),), value=float(count)) for key, count in sorted(counts.items()))
    return Metric(name=name, help=help_text, kind="counter", samples=samples)
