"""`/metrics` of an agent, for Prometheus: read from the kernel when it is asked for, on loopback or a Unix socket."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from dataplane.host_api import LostPackets, NodeDescription, ProbeReading
from dataplane.reasons import DropReason, PipelineEvent
from dataplane.telemetry.counters import Totals

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REQUEST_BYTES = 8192
_REQUEST_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one answer is made of."""

    description: NodeDescription
    forwarding_classes: Totals
    forwarding_class_drops: Totals
    drops: Totals
    events: tuple[int, ...]
    """By PipelineEvent."""
    tables: tuple[tuple[str, int, int], ...]
    """Name, entries, size."""
    flows: int
    neighbors: int
    losses: tuple[LostPackets, ...]
    probes: tuple[ProbeReading, ...]


def text(figures: Figures) -> bytes:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Collected(figures))
    return generate_latest(registry)


class _Collected:
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        figures = self._figures
        node = figures.description
        yield InfoMetricFamily(
            "netstitch_build",
            "The agent, its map layout and what makes its tunnels.",
            {"version": node.software.split()[-1], "layout": node.layout, "wireguard": node.wireguard},
        )
        for what, column in (("packets", 0), ("bytes", 1)):
            drops = [(_reason(n), int(total)) for n, total in enumerate(figures.drops[:, column]) if total]
            yield _counter(f"netstitch_dropped_{what}", f"Dropped {what}, by reason.", "reason", drops)
            for name, about, totals in (
                ("netstitch_forwarded", "Permitted", figures.forwarding_classes),
                ("netstitch_permitted_dropped", "Permitted and then dropped", figures.forwarding_class_drops),
            ):
                told = f"{about} {what}, by forwarding class (`stitch explain`)."
                classes = [(str(n), int(total)) for n, total in enumerate(totals[:, column]) if total]
                yield _counter(f"{name}_{what}", told, "forwarding_class", classes)
        lost = CounterMetricFamily(
            "netstitch_lost_packets",
            "Packets that the pipeline let through and that were lost then, by reason and interface.",
            labels=["reason", "interface"],
        )
        for each in figures.losses:
            lost.add_metric([_reason(each.reason), each.interface], each.packets)
        yield lost
        events = [(event.name.lower(), figures.events[event]) for event in PipelineEvent]
        yield _counter("netstitch_pipeline_events", "What the pipeline did beside forwarding.", "event", events)
        entries = [(name, count) for name, count, _ in figures.tables]
        yield _gauge("netstitch_table_entries", "Entries of a table.", "table", entries)
        sizes = [(name, size) for name, _, size in figures.tables]
        yield _gauge("netstitch_table_size", "Entries that a table can have.", "table", sizes)
        yield GaugeMetricFamily("netstitch_flow_records", "Flows in the cache.", value=figures.flows)
        yield GaugeMetricFamily("netstitch_neighbors", "Hosts whose MAC address is known.", value=figures.neighbors)
        ports = node.ports
        carriers = [(port.interface, int(port.carrier)) for port in ports]
        yield _gauge("netstitch_port_carrier", "1: the port has a carrier.", "interface", carriers)
        faults = [(port.interface, len(port.faults)) for port in ports]
        yield _gauge("netstitch_port_faults", "What keeps frames from passing.", "interface", faults)
        silent = [(port.interface, int(port.silent)) for port in ports]
        yield _gauge("netstitch_port_silent", "1: probes over its link do not come back.", "interface", silent)
        probes = [(_probed(reading), reading) for reading in figures.probes]
        alive = [(name, int(reading.is_alive)) for name, reading in probes]
        yield _gauge("netstitch_probe_alive", "1: the probes of a link or path come back.", "probe", alive)
        probes_sent = [(name, reading.sent) for name, reading in probes]
        yield _counter("netstitch_probes_sent", "Probes of a link or path.", "probe", probes_sent)
        probes_lost = [(name, reading.lost) for name, reading in probes]
        yield _counter("netstitch_probes_lost", "Probes that did not come back in time.", "probe", probes_lost)
        took = [(name, reading.round_trip_us / 1e6) for name, reading in probes if reading.round_trip_us]
        yield _gauge("netstitch_probe_round_trip_seconds", "Median of the last seconds.", "probe", took)
        borders = [border for border in node.borders if border.up]
        yield _gauge(
            "netstitch_tunnel_latest_handshake_timestamp_seconds",
            "Unix time; 0: never.",
            "border",
            [(border.name, border.latest_handshake_s) for border in borders],
        )
        received = [(border.name, border.received_bytes) for border in borders]
        yield _counter("netstitch_tunnel_received_bytes", "From the neighbour.", "border", received)
        sent = [(border.name, border.sent_bytes) for border in borders]
        yield _counter("netstitch_tunnel_sent_bytes", "To the neighbour.", "border", sent)


class MetricsServer:
    """HTTP/1.0, GET /metrics, nothing else."""

    def __init__(self, read: Callable[[], Awaitable[bytes]]) -> None:
        """`read`: the text; raises OSError or AgentError."""
        self._read = read
        self._server: asyncio.Server | None = None

    async def listen(self, address: str) -> None:
        """`unix:/PATH` (mode 0600) or `HOST:PORT`. Raises OSError."""
        if address.startswith("unix:"):
            path = address.removeprefix("unix:")  # a socket of an agent that is gone makes room
            self._server = await asyncio.start_unix_server(self._answer, path, limit=_REQUEST_BYTES)
            os.chmod(path, 0o600)
        else:
            host, _, port = address.rpartition(":")
            self._server = await asyncio.start_server(
                self._answer, host.strip("[]"), int(port), limit=_REQUEST_BYTES, reuse_address=True
            )

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(TimeoutError, OSError, ValueError, asyncio.IncompleteReadError, EOFError):
            async with asyncio.timeout(_REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
                status, body = await self._said(head.split(b" ", 2)[:2])
                fields = f"Content-Type: {_CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close"
                writer.write(f"HTTP/1.0 {status}\r\n{fields}\r\n\r\n".encode() + body)
                await writer.drain()
        writer.close()

    async def _said(self, request: list[bytes]) -> tuple[str, bytes]:
        if request != [b"GET", b"/metrics"]:
            return "404 Not Found", b"only GET /metrics\n"
        try:
            return "200 OK", await self._read()
        except OSError as error:
            return "503 Service Unavailable", f"{error}\n".encode()


def _reason(number: int) -> str:
    try:
        return DropReason(number).name.lower()
    except ValueError:
        return str(number)  # of an entry


def _probed(reading: ProbeReading) -> str:
    if reading.slot is None:
        return f"port {reading.port}"
    return f"liveness group {reading.liveness_group} path {reading.slot}"


def _counter(name: str, about: str, label: str, samples: Iterable[tuple[str, float]]) -> Metric:
    family = CounterMetricFamily(name, about, labels=[label])
    for value, count in samples:
        family.add_metric([value], count)
    return family


def _gauge(name: str, about: str, label: str, samples: Iterable[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(name, about, labels=[label])
    for value, count in samples:
        family.add_metric([value], count)
    return family
