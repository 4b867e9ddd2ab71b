"""The XDP program as one node in namespaces of the test's own, to run frames through and compare with the model."""

import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from namespaces import Namespace, veth

from dataplane.entry import TableEntry
from dataplane.host.fragmentation import to_cut
from dataplane.host_api import TableSizes
from dataplane.p4runtime.codec import pack
from dataplane.p4runtime.columns import from_packed
from dataplane.p4runtime.p4info import load, resized
from dataplane.reasons import FRAGMENT_SHARES, FRAGMENT_WAYS, DropReason, PipelineEvent
from dataplane.reference import Cut, Drop, Forward, Pass, Port, Punt, Verdict
from dataplane.reference.flow import FlowKey
from dataplane.tables import table_sizes
from dataplane.tables.layout import of
from dataplane.tables.node_tables import Run, Tables, map_names
from dataplane.tables.stores import Operation
from dataplane.xdp.bpf import LOOPBACK, OBJECT_PATH, POSSIBLE_CPUS, Link, Object, RingBuffer, XdpAction
from dataplane.xdp.flow_cache import ENTRY, Entries, FlowCache
from dataplane.xdp.jiffies import JiffiesClock

OBJECT = Path(os.environ.get("NETSTITCH_XDP_OBJECT", OBJECT_PATH))
"""Another build can be tested, such as one that was broken on purpose."""
MTU = 2000
PORT_PRESENT = 2
BYTES = (1 << 48) - 1
"""The part of a flow's `bytes_and_port` that is bytes."""
CONVERSATION_BUCKETS = 1024
SIZES = TableSizes(
    forwarding_classes=1024, flow_policies=4096, prefixes=4096, sr_policies=64, policy_classes=64, local_sids=1024
)
PUNTED_BYTES = 1514
"""Of a frame that reach the controller; the model has no such limit."""
PUNTED_HEADER = struct.Struct("=HBxHHH2xI")
PASSED, DROPPED, SENT, PUNTED, CUT = "pass", "drop", "send", "punt", "cut"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict as far as a test run shows it: not the port that a frame leaves by."""

    kind: str
    reason: int = DropReason.NONE
    frame: bytes = b""
    vrf: int = 0
    answer_class: int = 0
    pieces: tuple["Outcome", ...] = ()
    """Without reasons."""


def outcome(verdict: Verdict) -> Outcome:
    match verdict:
        case Pass():
            return Outcome(PASSED)
        case Drop(reason):
            return Outcome(DROPPED, reason)
        case Forward(_, frame, reason):
            return Outcome(SENT, reason, frame)
        case Punt(reason, frame, vrf, answer_class):
            return Outcome(PUNTED, reason, frame[:PUNTED_BYTES], vrf, answer_class)
        case Cut(pieces):
            return Outcome(CUT, pieces=tuple(replace(outcome(piece), reason=DropReason.NONE) for piece in pieces))


class XdpNode:
    """Ports are veths: `p1` is port 1, its other end `h1` lies in `hosts`. Run frames `inside`."""

    def __init__(self, ports: dict[int, Port], *, buckets: int = 64, **constants: int) -> None:
        """`buckets` of the flow cache for each CPU: few, so that flows are evicted too. ICMP errors have no limit."""
        # First what may fail: nothing is left behind then.
        self.object = Object(OBJECT)
        # Fragments outlive the slowest machine's pauses between two frames.
        usual = {
            "fragment_lifetime_ms": 0xFFFFFFFF,
            "icmp_error_interval_ns": 0,
            "cut_limit": 0xFFFFFFFF,
            "punt_limit": 0xFFFFFFFF,
        }
        usual["neighbor_wait_ns"] = (1 << 64) - 1
        sizes = {"flow_cache_buckets": buckets, "conversation_buckets": CONVERSATION_BUCKETS}
        self.object.set_constants({**sizes, **usual, **constants})
        conversations = constants.get("conversation_buckets", CONVERSATION_BUCKETS)
        self.object.resize({"conversation": conversations})
        shares = (max(ports) + 1) * FRAGMENT_SHARES
        self.object.resize({"fragment": shares * FRAGMENT_WAYS, "fragment_count": shares})
        self.object.resize(dict.fromkeys(("flow_cache", "flow_cache_tag"), buckets * POSSIBLE_CPUS))
        self._layout = of(resized(load(), table_sizes.by_name(SIZES)))
        self.object.resize(self._layout.map_sizes)
        self.object.load()
        self.program = self.object.program("pipeline")
        self.node, self.hosts = Namespace("node"), Namespace("hosts")
        self._links: list[Link] = []
        self.ifindex: dict[int, int] = {}
        for number in ports:
            veth(self.node, f"p{number}", self.hosts, f"h{number}", mtu=MTU)
            for namespace, device in ((self.node, f"p{number}"), (self.hosts, f"h{number}")):
                namespace.run("sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=1")
        with self.hosts.entered():
            for number in ports:
                self._attach("pass", f"h{number}")
        with self.node.entered():
            for number, port in ports.items():
                self._add_port(number, port)
        maps = {name: self.object.map(name) for name in map_names(self._layout)}
        cache = self.object.map("flow_cache")
        self.flows = FlowCache(cache.fd, cache.max_entries, JiffiesClock.calibrated())
        self.tables = Tables(self._layout, maps, self.flows.expire)
        self._entries: dict[tuple[object, ...], TableEntry] = {}
        self._punts = RingBuffer(self.object.map("punt"))
        self.cuts = RingBuffer(self.object.map("cut"))
        self._drops = self.object.map("drop_counter")

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is in the node's namespace, and on one CPU, since each CPU has its own part of the flow cache."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(before)})
        try:
            with self.node.entered():
                yield
        finally:
            os.sched_setaffinity(0, before)

    def close(self) -> None:
        self._punts.close()
        self.cuts.close()
        for link in self._links:
            link.close()
        self.object.close()
        self.node.remove()
        self.hosts.remove()

    def _attach(self, program: str, device: str) -> int:
        index = socket.if_nametoindex(device)
        self._links.append(Link.create(self.object.program(program), index))
        return index

    def _add_port(self, number: int, port: Port) -> None:
        # A program that is attached is known to the dispatcher: test runs need not wait for RCU, 4 ms each.
        index = self._attach("pipeline", f"p{number}")
        self.ifindex[number] = index
        key = struct.pack("=I", number)
        self.object.map("port_number").update(struct.pack("=I", index), key)
        ipv4 = (port.ipv4 & 0xFFFFFFFF).to_bytes(4)
        row = struct.pack("=6sBxH2x4s8x16s", port.mac, PORT_PRESENT, port.mtu, ipv4, port.ipv6.to_bytes(16))
        self.object.map("port").update(key, row)
        self.object.map("tx_port").update(key, struct.pack("=I", index))

    def sync(self, entries: Iterable[TableEntry]) -> None:
        """Exactly `entries` are in the tables."""
        wanted = {(entry.table, entry.match, entry.priority): entry for entry in entries}
        gone = [entry for key, entry in self._entries.items() if key not in wanted]
        added = [entry for key, entry in wanted.items() if key not in self._entries]
        changed = [entry for key, entry in wanted.items() if self._entries.get(key, entry) != entry]
        self._write(Operation.DELETE, gone)
        self._write(Operation.INSERT, added)
        self._write(Operation.MODIFY, changed)
        self._entries = wanted

    def _write(self, operation: Operation, entries: Sequence[TableEntry]) -> None:
        runs = []
        for table in dict.fromkeys(entry.table for entry in entries):
            layout = self._layout.by_name[table]
            packed = [pack(layout, entry) for entry in entries if entry.table == table]
            runs.append(Run(operation, layout, from_packed(layout, packed), 0))
        for run in runs:
            faults = self.tables.write([run])
            assert not faults, (operation, run.table.table.name, faults)

    def forget(self) -> None:
        """Neighbours, fragments, the flow cache and what classes counted are as at the start."""
        self._clear("forwarding_class_counter")
        self._clear("conversation")
        self.forget_fragments()
        for name in ("neighbor_cache", "unanswered"):
            known = self.object.map(name)
            for key in list(known):
                known.delete(key)
        for name in ("flow_cache", "flow_cache_tag"):
            self.object.map(name).mapped(writable=True)[:] = 0

    def age_flows(self, seconds: int) -> None:
        """What the flow cache knows was seen so much earlier."""
        cached = np.frombuffer(self.object.map("flow_cache").mapped(writable=True), ENTRY)
        cached["last_seen"] -= seconds * JiffiesClock.calibrated().hz

    def forget_fragments(self) -> None:
        self._clear("fragment")
        self._clear("fragment_count")

    def _clear(self, array: str) -> None:
        values = self.object.map(array)
        keys = np.arange(values.max_entries, dtype="<u4").tobytes()
        values.update_batch(keys, bytes(values.stride * values.max_entries))

    def run(self, port: int, frame: bytes, counted: int = DropReason.NONE) -> Outcome:
        """What XDP makes of `frame`. `counted` is the reason that is expected: only that counter is looked at."""
        return self._run(port, self.ifindex.get(port, 0), frame, counted)

    def _run(self, port: int, ifindex: int, frame: bytes, counted: int, metadata: bytes = b"") -> Outcome:
        before = self.drops(counted)
        done = self.program.test_run(frame, ifindex=ifindex, metadata=metadata)
        reason = counted if counted and self.drops(counted) == before + 1 else DropReason.NONE
        if done.action == XdpAction.PASS:
            return Outcome(PASSED, reason, b"" if done.frame == frame else done.frame)
        if done.action == XdpAction.REDIRECT:
            return Outcome(SENT, reason, done.frame)
        assert done.action == XdpAction.DROP
        for cut in map(to_cut, self.cuts.consume()):
            pieces = (self._run(port, LOOPBACK, piece, DropReason.NONE, cut.judged) for piece in cut.frames())
            return Outcome(CUT, pieces=tuple(replace(piece, reason=DropReason.NONE) for piece in pieces))
        punted = self._punts.consume()
        if not punted:
            return Outcome(DROPPED, reason)
        (record,) = punted
        ingress_port, punt_reason, vrf, mtu, answer_class, length = PUNTED_HEADER.unpack_from(record)
        assert (ingress_port, mtu) == (port, 0)
        frame = record[PUNTED_HEADER.size :][: min(length, PUNTED_BYTES)]
        return Outcome(PUNTED, punt_reason, frame, vrf, answer_class)

    def run_first(self, port: int, frame: bytes) -> tuple[Outcome, bool]:
        """As `run`, where nobody knows yet what to expect; and whether the flow cache had the flow."""
        drops, hits = self._all_drop_packets(), self.event(PipelineEvent.CACHE_HIT)
        seen = self.run(port, frame)
        if seen.kind in (PASSED, DROPPED, SENT):
            reasons = np.flatnonzero(self._all_drop_packets() - drops).tolist()
            assert len(reasons) <= 1, (port, frame.hex(), reasons)
            seen = replace(seen, reason=reasons[0] if reasons else DropReason.NONE)
        return seen, self.event(PipelineEvent.CACHE_HIT) > hits

    def _all_drop_packets(self) -> np.ndarray:
        _, values = self._drops.items()
        return np.frombuffer(values, "<u8").reshape(-1, POSSIBLE_CPUS, 2)[:, :, 0].sum(axis=1)

    def event(self, event: PipelineEvent) -> int:
        """How often it was counted, on all CPUs."""
        values = self.object.map("event_counter").lookup_per_cpu(struct.pack("=I", event))
        return sum(int.from_bytes(value, "little") for value in values)

    def drops(self, reason: int) -> int:
        """Packets dropped for `reason`, on all CPUs."""
        values = self._drops.lookup(struct.pack("=I", reason))
        assert values is not None
        return sum(struct.unpack(f"={len(values) // 8}Q", values)[::2])

    def all_drops(self) -> dict[int, tuple[int, int]]:
        """Packets and bytes by reason, without zeros."""
        drops = {}
        for reason in range(256):
            counters = [
                struct.unpack("=QQ", counter) for counter in self._drops.lookup_per_cpu(struct.pack("=I", reason))
            ]
            if any(packets for packets, _ in counters):
                drops[reason] = (sum(packets for packets, _ in counters), sum(size for _, size in counters))
        return drops

    def events(self) -> dict[PipelineEvent, int]:
        return {event: self.event(event) for event in PipelineEvent}

    def class_totals(self) -> dict[int, tuple[int, int]]:
        """Packets and bytes by forwarding class: what was folded, and what the flow cache has."""
        keys, folded = self.object.map("forwarding_class_counter").items()
        counters = np.frombuffer(folded, "<u8").reshape(len(keys) // 4, POSSIBLE_CPUS, 2).sum(axis=1)
        totals = {int(n): (int(counters[n][0]), int(counters[n][1])) for n in np.flatnonzero(counters[:, 0])}
        for line in self._flow_entries():
            packets, size = totals.get(int(line["forwarding_class"]), (0, 0))
            size += int(line["bytes_and_port"]) & BYTES
            totals[int(line["forwarding_class"])] = (packets + int(line["packets"]), size)
        return totals

    def flow_records(self) -> dict[FlowKey, tuple[int, int, int, int]]:
        """Forwarding class, ingress port, packets, bytes of the flows in the cache. Fails if a flow is there twice."""
        records = {}
        for line in self._flow_entries():
            numbers = (int(line[name]) for name in ("protocol", "source_port", "destination_port", "l4_class"))
            ends = (int.from_bytes(line[f"{end}_address"].tobytes()) for end in ("source", "destination"))
            key = FlowKey(int(line["policy_class"]), *ends, *numbers)
            assert key not in records, key
            port, size = divmod(int(line["bytes_and_port"]), BYTES + 1)
            records[key] = (int(line["forwarding_class"]), port, int(line["packets"]), size)
        return records

    def denied(self) -> dict[int, tuple[int, int]]:
        """Packets and bytes that `flow_policy` denied, by policy class, without zeros."""
        return self._counted("policy_class_counter")

    def class_drops(self) -> dict[int, tuple[int, int]]:
        """Packets and bytes that were permitted and dropped, by forwarding class, without zeros."""
        return self._counted("forwarding_class_drop_counter")

    def _counted(self, name: str) -> dict[int, tuple[int, int]]:
        keys, values = self.object.map(name).items()
        counters = np.frombuffer(values, "<u8").reshape(len(keys) // 4, POSSIBLE_CPUS, 2).sum(axis=1)
        return {int(n): (int(counters[n][0]), int(counters[n][1])) for n in np.flatnonzero(counters[:, 0])}

    def _flow_entries(self) -> Entries:
        entries = self.object.map("flow_cache").mapped().reshape(-1, ENTRY.itemsize).view(ENTRY).ravel()
        return entries[entries["generation"] != 0]
