"""Learned scores of flow records: how well attacks are told, how many false alarms, how fast."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.report import Row, row
from controller import reconcile
from controller.assurance import evaluation, learned, windows
from controller.assurance.assess import Assurance, assess, learnt
from controller.assurance.detectors.learned import Learned
from controller.assurance.grouping import numbered
from controller.assurance.seen import Seen
from controller.cli.detector import labelled
from controller.model.flow_columns import NOT_OBSERVED, FlowColumns, concatenated, empty
from controller.model.policy import Policy
from controller.traffic import Traffic
from dataplane.host_api import TelemetryBatch
from dataplane.telemetry.packed_flows import PACKED

PUBLIC = "best public"
"""Of the public methods that were tried on the same data, the best."""
RUN_GAP_S = 120.0
PART = 0.6
ROWS, SINGLE_ROWS = 100_000, 300
ENTITIES = 5_000


def attacks(file: Path) -> Iterator[Row]:
    """Trained on what is benign before a time, judged after it; and each run by a model of the others. The peer of TPR
    and AUROC is the best of the public methods that were tried on the same data."""
    flows, attack, _ = labelled(str(file), False)
    late = flows.time_s >= np.quantile(flows.time_s, PART)
    hidden = replace(flows, bytes=np.full(len(flows), NOT_OBSERVED))
    for name, seen, aims, peers in (
        ("assure.ddos", flows, (0.92, 0.75), (0.878, 0.63)),
        ("assure.ddos_sizes_hidden", hidden, (0.90, None), (0.85, None)),
    ):
        scores, p = _judged(seen.take(~late & ~attack), seen.take(late))
        yield row(
            f"{name}_auroc", evaluation.auroc(scores, attack[late]), "", better="higher", target=aims[0],
            peer=PUBLIC, peer_value=peers[0], compared=False,
        )  # fmt: skip
        yield row(
            f"{name}_tpr_at_1_percent", evaluation.found_at(scores, attack[late], 0.01), "of attacks", better="higher",
            target=aims[1], peer=PUBLIC if peers[1] else None, peer_value=peers[1], compared=False,
        )  # fmt: skip
        false = float((p[~attack[late]] <= 0.01).mean())
        yield row(f"{name}_calibrated_fpr", 100 * false, "%", better="lower", target=3)
        found = float((p[attack[late]] <= 0.01).mean())
        yield row(f"{name}_calibrated_tpr", found, "of attacks", better="higher")
    order = np.argsort(flows.time_s, kind="stable")
    run = np.zeros(len(flows), dtype=np.int64)
    run[order] = np.concatenate([[0], np.cumsum(np.diff(flows.time_s[order]) > RUN_GAP_S)])
    left_out = []
    for number in np.unique(run).tolist():
        own = run == number
        scores, _ = _judged(flows.take(~own & ~attack), flows.take(own))
        left_out.append(evaluation.auroc(scores, attack[own]))
    yield row(
        "assure.ddos_runs_left_out_auroc", float(np.mean(left_out)), "mean", better="higher",
        peer=PUBLIC, peer_value=0.82, compared=False,
    )  # fmt: skip
    yield row("assure.ddos_runs_left_out_worst", float(np.min(left_out)), "", better="higher")


def benign(files: list[Path]) -> Iterator[Row]:
    """Captures of devices; those of one name but for its last letter are of one device. Each device's are scored by a
    model of the others."""
    captures = [(file.name.removesuffix(".csv.gz").rstrip("abcdefgh"), labelled(str(file), False)[0]) for file in files]
    for name, of in (("flows", lambda flows: flows), ("host_windows", host_windows)):
        alarms = total = 0
        for device in sorted({each for each, _ in captures}):
            train = [of(flows) for each, flows in captures if each != device]
            for shown in (of(flows) for each, flows in captures if each == device):
                _, p = _judged_groups(train, shown)
                alarms, total = alarms + int((p <= 0.01).sum()), total + len(p)
        yield row(
            f"assure.iot_{name}_calibrated_fpr", 100 * alarms / max(1, total), "%", better="lower", target=3,
            peer=PUBLIC, peer_value=6, compared=False,
        )  # fmt: skip


def host_windows(flows: FlowColumns, window_s: float = 60.0) -> FlowColumns:
    """What each source did in each window, as one record: packets and bytes of all its flows, and how many peers (as
    duration) it had."""
    number = np.floor(flows.time_s / window_s)
    parts: list[FlowColumns] = []
    for each in np.unique(number):
        own = flows.take(number == each)
        window = windows.by_source(own)
        first = own.take(np.array([window.records(entity)[0] for entity in range(len(window.entities))]))
        parts.append(
            replace(
                first,
                time_s=np.full(len(first), each * window_s),
                protocol=np.zeros(len(first), dtype=np.uint8),
                destination_address=np.zeros_like(first.destination_address),
                packets=window.packets.astype(np.int64),
                bytes=window.bytes.astype(np.int64),
                reverse_packets=window.reverse_packets.astype(np.int64),
                reverse_bytes=window.reverse_bytes.astype(np.int64),
                duration_s=windows.different(window, numbered(own.destination_address)[1]).astype(np.float32),
            )
        )
    return concatenated(parts)


def speed() -> Iterator[Row]:
    """The full ensemble on generated records, by the CPU time that it takes: of one core, whatever else runs."""
    model = learned.trained([generated(10_000, 1), generated(10_000, 2)])
    flows = generated(ROWS, 3)
    batch_s = min(_seconds(lambda: learned.scores(model, flows)) for _ in range(3))
    rows = [flows.take(np.array([number])) for number in range(SINGLE_ROWS)]
    single_s = _seconds(lambda: [learned.scores(model, each) for each in rows])
    rate = ROWS / batch_s
    yield row("assure.score_rate", rate, "rows/s", better="higher", target=100_000)
    yield row("assure.score_batch_vs_single", rate / (SINGLE_ROWS / single_s), "times", better="higher", target=10)
    assurance, _ = assess(Assurance(), Seen(flows=generated(ROWS, 4)), 1.0)
    seen = Seen(flows=generated(ROWS, 5))
    took_s = min(_seconds(lambda: assess(assurance, seen, 2.0)) for _ in range(3))
    yield row("assure.assess_100k_records_ms", 1000 * took_s, "ms", better="lower")
    yield read_and_scored()


def read_and_scored() -> Row:
    """A second of one controller: what nodes tell of ROWS flows is read, joined, summed up and looked at by all
    detectors, the learned one with a model of the first second; that one judges 20,000 of the records."""
    clock = [1000.0]
    traffic = Traffic(7, now_s=lambda: clock[0], monotonic_s=lambda: clock[0])
    state, _ = reconcile.initial((), "shop", Policy())
    assurance, flows, took_s = Assurance(), generated(ROWS, 5), list[float]()
    rows = np.zeros(ROWS, dtype=PACKED)
    for name in ("source_address", "destination_address", "source_port", "destination_port", "protocol"):
        rows[name] = getattr(flows, name)
    rows["source_port"] = np.arange(ROWS) % 60_000 + 1024
    rows["first_seen_s"] = 1000.0 - 60 * np.random.default_rng(6).random(ROWS)
    for second in range(5):
        clock[0] += 1.0
        rows["packets"] += flows.packets.astype(np.uint64)
        rows["bytes"] += np.maximum(flows.bytes, 0).astype(np.uint64)
        rows["last_seen_s"] = clock[0] - 0.1
        told = TelemetryBatch(
            time_s=clock[0], interval_s=1.0, flows=(), packed_flows=rows.tobytes(), forwarding_classes=(), drops=(),
            ports=(), lost_batches=0,
        )  # fmt: skip
        traffic.observe("edge", told)
        began_s = time.process_time()
        came = traffic.work(traffic.waiting(), state)
        if second:
            assurance, _ = assess(assurance, Seen(flows=came), clock[0])
        took_s.append(time.process_time() - began_s)
        if second == 1:
            sample = came.take(np.arange(0, len(came), max(1, len(came) // 4096)))
            assurance = learnt(assurance, learned.trained([sample]), clock[0])
    judged = next(each for each in assurance.detectors if isinstance(each, Learned))
    assert judged.model is not None and judged.all, "no record was judged"
    return row("assure.read_score_ms", 1000 * min(took_s[2:]), "ms", better="lower", target=300)


def generated(count: int, seed: int) -> FlowColumns:
    """A second of a busy controller: ENTITIES hosts that call some services."""
    chance = np.random.default_rng(seed)
    hosts = chance.integers(0, ENTITIES, count)
    services = random.Random(seed).choices((443, 80, 53, 22, 5432), (50, 20, 20, 5, 5), k=count)
    packets = np.maximum(1, chance.lognormal(3, 1.5, count)).astype(np.int64)
    source = np.zeros((count, 16), dtype=np.uint8)
    source[:, 10:12], source[:, 12] = 255, 10
    source[:, 13], source[:, 14], source[:, 15] = 1, hosts // 250, hosts % 250
    destination = source.copy()
    destination[:, 13], destination[:, 14], destination[:, 15] = 2, 0, chance.integers(1, 250, count)
    port = np.array(services, dtype=np.uint16)
    return replace(
        empty(("edge",), ()),
        time_s=np.full(count, float(seed)),
        interval_s=np.ones(count, dtype=np.float32),
        node=np.zeros(count, dtype=np.uint16),
        owner=np.full(count, -1, dtype=np.int32),
        source_address=source,
        destination_address=destination,
        protocol=np.where(port == 53, 17, 6).astype(np.uint8),
        source_port=chance.integers(32768, 60999, count).astype(np.uint16),
        destination_port=port,
        packets=packets,
        bytes=packets * chance.integers(60, 1400, count),
        reverse_packets=packets,
        reverse_bytes=packets * chance.integers(60, 1400, count),
        duration_s=chance.random(count).astype(np.float32),
        tcp_state=np.full(count, NOT_OBSERVED, dtype=np.int8),
        is_new=chance.random(count) < 0.1,
        opened=np.zeros(count, dtype=np.uint8),
        marks=np.zeros(count, dtype=np.uint8),
    )


def _judged(train: FlowColumns, shown: FlowColumns) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return _judged_groups([train], shown)


def _judged_groups(train: list[FlowColumns], shown: FlowColumns) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    model = learned.trained(train)
    scores = learned.scores(model, shown)
    return scores, model.calibration.p(scores)


def _seconds(what: Callable[[], object]) -> float:
    begin = time.process_time()
    what()
    return time.process_time() - begin
