"""Metrics in Prometheus' text format (exposition format 0.0.4). Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from controller.model.intent import Phase
from controller.model.resource import Resource
from controller.model.telemetry import Carried, Metric, Sample

INTENTS_MAX = 1000
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def text(metrics: Iterable[Metric]) -> str:
    lines: list[str] = []
    for metric in metrics:
        if not metric.samples:
            continue
        lines.append(f"# HELP {metric.name} {_escaped(metric.help)}")
        lines.append(f"# TYPE {metric.name} {metric.kind}")
        for sample in metric.samples:
            labels = ",".join(f'{name}="{_escaped(value, quote=True)}"' for name, value in sample.labels)
            lines.append(
                f"{metric.name}{{{labels}}} {sample.value:.17g}" if labels else f"{metric.name} {sample.value:.17g}"
            )
    return "\n".join(lines) + "\n" if lines else ""


def of_intents(intents: Sequence[Resource]) -> tuple[Metric, ...]:
    """Also the phases that no intent is in, so that a graph does not end there."""
    count = Counter(str(intent.status.get("phase", "")) for intent in intents)
    samples = tuple(Sample(labels=(("phase", phase.value),), value=count[phase.value]) for phase in Phase)
    return (Metric(name="netstitch_intents", help="Intents by phase.", kind="gauge", samples=samples),)


def of_each_intent(intents: Sequence[Resource], carried: Sequence[Carried], now_s: float) -> tuple[Metric, ...]:
    """Of at most INTENTS_MAX, the first by name, so that a scrape stays small."""
    names = [str(intent.metadata["name"]) for intent in intents[:INTENTS_MAX]]
    mine = {f"intents/{name}": name for name in names}
    shown = [flow for flow in carried if flow.owner in mine]

    def counted(field: str) -> tuple[Sample, ...]:
        return tuple(
            Sample(labels=(("intent", mine[flow.owner]), ("node", flow.node)), value=getattr(flow, field))
            for flow in shown
        )

    def told(pick: Callable[[Mapping[str, Any]], float | None]) -> tuple[Sample, ...]:
        values = ((name, pick(intent.status)) for name, intent in zip(names, intents, strict=False))
        return tuple(Sample(labels=(("intent", name),), value=value) for name, value in values if value is not None)

    left_s = told(lambda status: max(0.0, status["expires_s"] - now_s) if "expires_s" in status else None)
    latency_s = told(lambda status: status["predicted"]["latency_ms"] / 1000 if "predicted" in status else None)
    measured_s = told(lambda status: _measured(status, "latency_ms", 1e-3))
    lost = told(lambda status: _measured(status, "loss_percent", 1e-2))
    bits_s = told(lambda status: _measured(status, "bandwidth_mbps", 1e6))
    omitted = (Sample(value=float(max(0, len(intents) - INTENTS_MAX))),)
    return (
        _metric("netstitch_intent_packets_total", "Packets that a node carried for an intent, both directions.",
                "counter", counted("packets")),
        _metric("netstitch_intent_bytes_total", "Inner bytes that a node carried for an intent, both directions.",
                "counter", counted("bytes")),
        _metric("netstitch_intent_dropped_packets_total", "Packets of an intent that a node dropped, though permitted.",
                "counter", counted("dropped_packets")),
        _metric("netstitch_intent_dropped_bytes_total", "Frame bytes of those packets.",
                "counter", counted("dropped_bytes")),
        _metric("netstitch_intent_predicted_latency_seconds", "One way, as the plan has it.", "gauge", latency_s),
        _metric("netstitch_intent_measured_latency_seconds", "One way, by probes.", "gauge", measured_s),
        _metric("netstitch_intent_measured_loss_ratio", "Of probes, over a minute.", "gauge", lost),
        _metric("netstitch_intent_throughput_bits_per_second", "Of the last ten seconds, in the direction that carries "
                "more.", "gauge", bits_s),
        _metric("netstitch_intent_lease_left_seconds", "Until the intent expires.", "gauge", left_s),
        _metric("netstitch_intents_omitted", f"Intents beyond the first {INTENTS_MAX}, not shown one by one.",
                "gauge", omitted),
    )  # fmt: skip


def _measured(status: Mapping[str, Any], field: str, unit: float) -> float | None:
    value: float | None = status.get("measured", {}).get(field)
    return None if value is None else unit * value


def of_agreements(agreements: Sequence[Resource]) -> tuple[Metric, ...]:
    count = Counter(
        (str(agreement.status.get("peer")), str(agreement.status.get("standing"))) for agreement in agreements
    )
    samples = tuple(
        Sample(labels=(("peer", peer), ("standing", standing)), value=value)
        for (peer, standing), value in sorted(count.items())
    )
    return (_metric("netstitch_agreements", "Agreements by peer and standing.", "gauge", samples),)


def of_tunnels(tunnels: Sequence[Resource], now_s: float) -> tuple[Metric, ...]:
    """The age of a handshake that never was is not told."""

    def samples(pick: Callable[[Mapping[str, Any]], float | None]) -> tuple[Sample, ...]:
        values = ((str(tunnel.metadata["name"]).partition("/"), pick(tunnel.status)) for tunnel in tunnels)
        return tuple(
            Sample(labels=(("border", border), ("node", node)), value=value)
            for (node, _, border), value in values
            if value is not None
        )

    ages = samples(
        lambda status: max(0.0, now_s - status["latest_handshake_s"]) if status.get("latest_handshake_s") else None
    )
    up = samples(lambda status: float(status["up"]) if "up" in status else None)
    return (
        _metric("netstitch_tunnel_handshake_age_seconds", "Since the newest WireGuard handshake.", "gauge", ages),
        _metric("netstitch_tunnel_up", "1: the tunnel is up.", "gauge", up),
    )


def of_nodes(nodes: Sequence[Resource]) -> tuple[Metric, ...]:
    count = Counter(str(node.status.get("phase", "Unknown")) for node in nodes)
    phases = sorted({"Ready", "Syncing", "Unreachable", *count})
    samples = tuple(Sample(labels=(("phase", phase),), value=count[phase]) for phase in phases)
    return (_metric("netstitch_nodes", "Nodes by phase.", "gauge", samples),)


def _metric(name: str, help_text: str, kind: str, samples: tuple[Sample, ...]) -> Metric:
    return Metric(name=name, help=help_text, kind=kind, samples=samples)


def of_drops(drops: Sequence[Mapping[str, Any]]) -> tuple[Metric, ...]:
    """`drops`: node, reason, interface, packets, bytes."""

    def samples(field: str) -> tuple[Sample, ...]:
        labels = ("node", "reason", "interface")
        return tuple(
            Sample(labels=tuple((each, drop[each]) for each in labels if drop[each]), value=drop[field])
            for drop in drops
        )

    packets = Metric(
        name="netstitch_dropped_packets_total",
        help="Packets that nodes dropped.",
        kind="counter",
        samples=samples("packets"),
    )
    octets = Metric(
        name="netstitch_dropped_bytes_total",
        help="Frame bytes of the packets that nodes dropped.",
        kind="counter",
        samples=samples("bytes"),
    )
    return packets, octets


def _escaped(value: str, *, quote: bool = False) -> str:
    escaped = value.replace("\\", "\\\\").replace("\n", "\\n")
    return escaped.replace('"', '\\"') if quote else escaped
