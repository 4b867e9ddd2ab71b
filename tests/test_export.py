"""What is measured reaches the programs that others have for it: Prometheus, Grafana, IPFIX collectors."""

import asyncio
import json
import re
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import structlog
from northbound_fake import TOKEN, Running, running
from waiting import LIMIT_S, until, wait_for

from controller.config import IpfixConfig, IpfixTransport
from controller.export import collector as collectors
from controller.export.collector import Collector
from controller.export.ipfix import MESSAGE_BYTES_MAX, Exporter
from controller.model.flow_columns import COLUMNS, FlowColumns, concatenated
from controller.model.resource import Resource

LOG = structlog.get_logger("test")
ROOT = Path(__file__).parent.parent
MAPPED = bytes(10) + b"\xff\xff"
CLIENT, SERVER = MAPPED + bytes((10, 1, 0, 11)), MAPPED + bytes((10, 2, 0, 10))
CLIENT6, SERVER6 = (bytes.fromhex("20010db8") + bytes(11) + bytes((end,)) for end in (0x11, 0x10))


def flow(source: bytes = CLIENT, destination: bytes = SERVER, **fields: float) -> FlowColumns:
    values = {
        "time_s": 1_700_000_000.5, "interval_s": 1.0, "node": 0, "owner": 0, "protocol": 6, "source_port": 4000,
        "destination_port": 443, "packets": 10, "bytes": 1500, "reverse_packets": 8, "reverse_bytes": 9000,
    } | fields  # fmt: skip
    columns: dict[str, Any] = {name: np.array([values.get(name, 0)]) for name in COLUMNS}
    for name, address in (("source_address", source), ("destination_address", destination)):
        columns[name] = np.frombuffer(address, dtype=np.uint8).reshape(1, 16)
    return FlowColumns(**columns, nodes=("se1", "ie1"), owners=("intents/web",))


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def program(*command: str) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        started.communicate(timeout=LIMIT_S)


# ---- IPFIX


def headers(data: bytes) -> list[tuple[int, int, int, int]]:
    """Length, sequence number, domain and first set of each message."""
    found = []
    while data:
        version, length, _, sequence, domain, first_set = struct.unpack_from("!HHIIIH", data)
        assert version == 10 and len(data) >= length
        found.append((length, sequence, domain, first_set))
        data = data[length:]
    return found


def test_sequence_numbers_count_the_records_of_each_node_and_messages_stay_small() -> None:
    exporter = Exporter()
    many = concatenated([flow(source_port=1000 + n, node=n % 2) for n in range(60)])
    messages = []
    for node in (0, 1):
        messages.append(exporter.templates(node, many.nodes[node], 1.0))
        messages += exporter.data(node, many.take(many.node == node), 1.0)
    messages += exporter.data(0, flow(reverse_packets=-1, reverse_bytes=-1), 2.0)
    told = [headers(message)[0] for message in messages]
    assert all(length <= MESSAGE_BYTES_MAX for length, *_ in told)
    first = [(sequence, first_set) for _, sequence, domain, first_set in told if domain == 1]
    assert first[:2] == [(0, 2), (1, 256)]
    assert first[-1] == (61, 256)  # the name of the node, 30 flows both ways


@pytest.mark.parametrize("flows", [flow(bytes=-1), flow(packets=-1, bytes=-1, reverse_packets=-1, reverse_bytes=-1)])
def test_what_was_not_observed_is_no_record(flows: FlowColumns) -> None:
    lengths = [headers(message)[0][0] for message in Exporter().data(0, flows, 1.0)]
    seen = int(flows.packets[0] > 0) + int(flows.reverse_packets[0] > 0)
    assert sum(length - 20 for length in lengths) == seen * (4 + 4 + 1 + 2 + 2 + 4 * 8)


def dumped(directory: Path) -> list[dict[str, Any]]:
    """Of the files that nfcapd has closed."""
    rows: list[dict[str, Any]] = []
    for file in directory.glob("nfcapd.2*"):
        done = subprocess.run(["nfdump", "-r", str(file), "-o", "json"], capture_output=True, text=True, check=True)
        rows += json.loads(done.stdout) if "{" in done.stdout else []
    return rows


async def test_nfdump_reads_back_what_went_over_udp(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    collector = Collector(IpfixConfig(collector=f"127.0.0.1:{port}"), LOG)
    passed = concatenated([flow(), flow(CLIENT6, SERVER6, packets=3, bytes=333, node=1, reverse_packets=-1)])
    with program("nfcapd", "-b", "127.0.0.1", "-p", str(port), "-w", str(tmp_path), "-t", "2") as capturing:
        sockets = Path("/proc") / str(capturing.pid) / "net" / "udp"
        await until(lambda: f"0100007F:{port:04X}" in sockets.read_text(), "nfcapd listens")
        exporting = asyncio.create_task(collector.run())
        collector.take(passed)
        await until(lambda: collector.counts["messages"] == 4, "it is sent")
        exporting.cancel()
        rows = await until(lambda: asyncio.to_thread(dumped, tmp_path), "a file of two seconds has it")
    ends = [tuple(row.get(f"{end}4_addr") or row.get(f"{end}6_addr") for end in ("src", "dst")) for row in rows]
    counted = ("src_port", "dst_port", "proto", "in_packets", "in_bytes")
    seen = {(*end, *(row[field] for field in counted)) for end, row in zip(ends, rows, strict=True)}
    assert seen == {
        ("10.1.0.11", "10.2.0.10", 4000, 443, 6, 10, 1500), ("10.2.0.10", "10.1.0.11", 443, 4000, 6, 8, 9000),
        ("2001:db8::11", "2001:db8::10", 4000, 443, 6, 3, 333),
    }  # fmt: skip
    assert all(row["first"].endswith(":19.500") and row["last"].endswith(":20.500") for row in rows), rows


async def test_over_tcp_templates_come_first_on_each_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectors, "RETRY_S_MIN", 0.01)
    port, connections = free_port(socket.SOCK_STREAM), list[bytes]()
    config = IpfixConfig(collector=f"127.0.0.1:{port}", transport=IpfixTransport.TCP)
    collector = Collector(config, LOG)
    exporting = asyncio.create_task(collector.run())

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(b"")
        while len(connections[-1]) < 200 and (data := await reader.read(65536)):
            connections[-1] += data
        writer.close()

    await asyncio.sleep(0.05)  # nobody listens yet; it is tried again
    server = await asyncio.start_server(accept, "127.0.0.1", port)
    for number in range(2):
        await until(lambda wanted=number: len(connections) > wanted or collector.take(flow()), "a connection")
        await until(lambda wanted=number: collector.take(flow()) or len(connections[wanted]) >= 200, "messages")
        assert [first_set for *_, first_set in headers(connections[number])][:2] == [2, 256]
    exporting.cancel()
    server.close()


async def test_a_collector_that_is_not_there_costs_bounded_memory() -> None:
    collector = Collector(IpfixConfig(collector="127.0.0.1:9", transport=IpfixTransport.TCP), LOG)
    many = concatenated([flow()]).take(np.zeros(collectors.QUEUED_ROWS_MAX, dtype=int))
    collector.take(many)
    collector.take(flow())
    assert collector.counts["dropped"] == 1
    told = {sample.labels[0][1]: sample.value for metric in collector.metrics() for sample in metric.samples}
    assert told == {"dropped": 1, "messages": 0, "records": 0}


# ---- Prometheus, Grafana


@pytest.fixture(scope="module")
def api() -> Iterator[Running]:
    with running() as server:
        status = {
            "phase": "Active", "predicted": {"latency_ms": 4.0}, "expires_s": 2_000_000_000,
            "measured": {"latency_ms": 4.5, "loss_percent": 2.0, "bandwidth_mbps": 12.5},
        }  # fmt: skip
        metadata = {"name": "order-processing", "tenant": "customer-x"}
        server.controller.resources["intents"]["order-processing"] = Resource(
            kind="Intent", metadata=metadata, spec={}, status=status
        )
        yield server


def test_a_prometheus_scrapes_what_is_measured(api: Running, tmp_path: Path) -> None:
    port = free_port(socket.SOCK_STREAM)
    target = api.url.removeprefix("http://")
    (tmp_path / "prometheus.yml").write_text(
        "scrape_configs: [{job_name: netstitch, scrape_interval: 1s, "
        f"authorization: {{credentials: {TOKEN}}}, static_configs: [{{targets: ['{target}']}}]}}]"
    )
    command = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]

    def query(expression: str) -> list[Any]:
        try:
            answer = httpx.get(
                f"http://127.0.0.1:{port}/api/v1/query", params={"query": expression}, timeout=LIMIT_S, trust_env=False
            )
        except httpx.TransportError:
            return []
        if answer.status_code != 200:  # it begins
            return []
        found: list[Any] = answer.json().get("data", {}).get("result", [])
        return found

    with program("prometheus", *command, f"--web.listen-address=127.0.0.1:{port}") as _:
        wait_for(lambda: query('up{job="netstitch"} == 1'), "it is scraped")
        for name, value in (
            ("netstitch_intent_throughput_bits_per_second", 12_500_000),
            ("netstitch_intent_measured_latency_seconds", 0.0045),
            ("netstitch_intent_measured_loss_ratio", 0.02),
            ("netstitch_intent_packets_total", 18),
        ):
            [found] = query(name)
            assert found["metric"]["intent"] == "order-processing" and float(found["value"][1]) == pytest.approx(value)


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads((ROOT / "docs/grafana.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"netstitch_\w+", target["expr"])
    }
    sources = "".join(path.read_text() for path in (ROOT / "controller").rglob("*.py"))
    assert asked == {name for name in asked if f'"{name}"' in sources} and len(asked) > 10
