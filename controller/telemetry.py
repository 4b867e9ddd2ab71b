"""What the controller can say about traffic and health: model.telemetry.Telemetry, asked of the nodes on demand.

Of the nodes' streams it keeps what is small: their ports, and how much came and was lost.
"""

import asyncio
import resource
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

from controller import view
from controller.errors import TargetRejected, TargetUnreachable
from controller.model.resource import Resource
from controller.model.telemetry import Check, Metric, NodeDrops, NodeFlows, Sample
from controller.shell import Shell
from dataplane.host_api import CounterSample, FlowBatch, PortStatus, TelemetryBatch

NODE_S_MAX = 5.0
"""For one node's answer; the others do not wait longer for it."""
PAGE_BYTES = resource.getpagesize()

_Answer = TypeVar("_Answer")


class Observed(Protocol):
    """The nodes. Raises TargetUnreachable or TargetRejected."""

    def names(self) -> tuple[str, ...]: ...

    def fault(self, node: str) -> str:
        """Why there is no session with it now; empty: there is one."""

    def telemetry_fault(self, node: str) -> str: ...

    async def flows(self, node: str) -> FlowBatch: ...

    async def drops(self, node: str) -> tuple[CounterSample, ...]: ...


class Neighbourhood(Protocol):
    def faults(self) -> Mapping[str, str]:
        """By domain, why the newest message to it was not taken; empty: it was, or there was none."""


class StreamTally:
    """What arrived by the nodes' telemetry streams."""

    def __init__(self) -> None:
        self.batches: Counter[str] = Counter()
        self.flow_records: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.ports: dict[str, tuple[PortStatus, ...]] = {}
        self._lost_in_stream: dict[str, int] = {}

    def observe(self, node: str, batch: TelemetryBatch) -> None:
        before = self._lost_in_stream.get(node, 0)
        # A smaller number than before: a new stream, which counts from 0.
        self.lost[node] += batch.lost_batches - (before if batch.lost_batches >= before else 0)
        self._lost_in_stream[node] = batch.lost_batches
        self.batches[node] += 1
        self.flow_records[node] += len(batch.flows)
        if batch.ports:
            self.ports[node] = batch.ports


class NodeTelemetry:
    """Implements model.telemetry.Telemetry."""

    def __init__(self, shell: Shell, nodes: Observed, neighbourhood: Neighbourhood, tally: StreamTally) -> None:
        self._shell = shell
        self._nodes = nodes
        self._neighbourhood = neighbourhood
        self._tally = tally

    async def flows(self) -> tuple[NodeFlows, ...]:
        owners: dict[str, dict[int, str]] = {}
        for (node, leg), owner in view.legs(self._shell.state).items():
            owners.setdefault(node, {})[leg] = owner
        batches = await self._of_all(self._nodes.flows)
        return tuple(NodeFlows(node=node, batch=batch, owners=owners.get(node, {})) for node, batch in batches.items())

    async def drops(self) -> tuple[NodeDrops, ...]:
        counters = await self._of_all(self._nodes.drops)
        return tuple(NodeDrops(node=node, drops=drops) for node, drops in counters.items())

    async def checks(self) -> tuple[Check, ...]:
        checks = []
        for node in self._nodes.names():
            subject = f"nodes/{node}"
            fault, telemetry_fault = self._nodes.fault(node), self._nodes.telemetry_fault(node)
            checks.append(_check(subject, "reachable", fault, f"see that stitch-agent runs on {node}"))
            checks.append(_check(subject, "telemetry", telemetry_fault, f"see the log of stitch-agent on {node}"))
            standing = self._shell.state.nodes.get(node)
            if standing is not None and standing.description is not None and standing.description.borders:
                software = standing.description.wireguard
                checks.append(Check(subject=subject, name="wireguard", ok=True, detail=software))
            ports = standing.description.ports if standing is not None and standing.description is not None else ()
            checks += [_port_check(subject, port) for port in ports]
        for domain, fault in sorted(self._neighbourhood.faults().items()):
            advice = f"see that the controller of {domain} runs, and that both sides pinned each other's key"
            checks.append(_check(f"domains/{domain}", "reachable", fault, advice))
        checks += filter(None, map(_plugin_check, self._shell.list("plugins")))
        return tuple(checks)

    def metrics(self) -> tuple[Metric, ...]:
        tally, counts = self._tally, self._shell.counts
        steps = Counter({name: count for name, count in counts.items() if name[0].isupper()})
        carrier = tuple(
            Sample(labels=(("node", node), ("interface", port.interface)), value=float(port.carrier))
            for node, ports in sorted(tally.ports.items())
            for port in ports
        )
        return (
            _family("netstitch_events_total", "Events that were stepped", "kind", steps),
            _single("netstitch_step_seconds_total", "Time spent in step", "counter", counts["steps_us"] / 1e6),
            _single("netstitch_commits_total", "Commits of the store", "counter", counts["commits"]),
            _single("netstitch_ticks_lost_total", "Ticks that a full queue dropped", "counter", counts["ticks_lost"]),
            _single("netstitch_events_queued", "Events that wait", "gauge", self._shell.queued),
            _single("netstitch_resident_memory_bytes", "RSS of this controller", "gauge", _resident_bytes()),
            _family("netstitch_telemetry_batches_total", "Batches that arrived by stream", "node", tally.batches),
            _family("netstitch_telemetry_batches_lost_total", "Batches that a full queue dropped", "node", tally.lost),
            _family("netstitch_flow_records_total", "Flow records that arrived", "node", tally.flow_records),
            Metric(name="netstitch_port_carrier", help="1: the port has a carrier", kind="gauge", samples=carrier),
        )

    async def _of_all(self, ask: Callable[[str], Awaitable[_Answer]]) -> dict[str, _Answer]:
        """In parallel; who does not answer is left out, and fails its check."""

        async def one(node: str) -> _Answer | None:
            try:
                async with asyncio.timeout(NODE_S_MAX):
                    return await ask(node)
            except (TargetUnreachable, TargetRejected, TimeoutError):
                return None

        names = self._nodes.names()
        answers = await asyncio.gather(*(one(node) for node in names))
        return {node: answer for node, answer in zip(names, answers, strict=True) if answer is not None}


def _port_check(subject: str, port: PortStatus) -> Check:
    way = {"native": "native XDP", "detour": f"by a detour, {port.why}"}.get(port.way, "the kernel's")
    detail = f"{port.kind or port.role}, MTU {port.mtu}, {way}"
    name = f"port {port.number} {port.interface}"
    if not port.faults:
        return Check(subject=subject, name=name, ok=True, detail=detail)
    faults = [fault.partition(": ") for fault in port.faults]
    detail, advice = ("; ".join(fault[part] for fault in faults if fault[part]) for part in (0, 2))
    return Check(subject=subject, name=name, ok=False, detail=detail, advice=advice)


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


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE_BYTES
