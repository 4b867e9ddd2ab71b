"""Metrics in Prometheus' text format (exposition format 0.0.4). Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from controller.model.intent import Phase
from controller.model.resource import Resource
from controller.model.telemetry import Metric, Sample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def text(metrics: Iterable[Metric]) -> str:
    lines: list[str] = []
    for metric in metrics:
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


def of_drops(drops: Sequence[Mapping[str, Any]]) -> tuple[Metric, ...]:
    """`drops`: node, reason, packets, bytes."""

    def samples(field: str) -> tuple[Sample, ...]:
        return tuple(
            Sample(labels=(("node", drop["node"]), ("reason", drop["reason"])), value=drop[field]) for drop in drops
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
