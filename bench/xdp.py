"""One edge, counted at an XDP sink: known flows through the whole pipeline against the kernel's SRv6 encapsulation.

Both get the same live frames at the same interface and send them over the same veth. The runs are interleaved on one
CPU; figures are medians of nanoseconds a packet.
"""

import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.report import Row, row
from dataplane.bpf import POSSIBLE_CPUS, Link, Object
from dataplane.codec import pack
from dataplane.columns import from_packed
from dataplane.entry import FieldMatch, TableEntry
from dataplane.flow_cache import FlowCache
from dataplane.jiffies import JiffiesClock
from dataplane.layout import of
from dataplane.p4info import load
from dataplane.stores import Operation
from dataplane.tables import Run, Tables, map_names

SOURCE = Path("bench/generator.bpf.c")
GENERATOR = Path("build/bench/generator.bpf.o")
FRAME_BYTES = 100
TRACE_LENGTH = 1 << 18
FLOW_CACHE_ENTRIES = 1 << 18
REPETITIONS = 7
PREFIXES = 64
SR_POLICIES = 1024
CONTEXT, PORT_IN, PORT_OUT = 7, 1, 2
SEGMENTS = ("5f00:9:2:1::", "5f00:9:3:1::")
CPU = 1


def rows() -> list[Row]:
    """In a network namespace of its own, that goes with the process."""
    done = subprocess.run(["unshare", "--net", sys.executable, "-m", "bench.xdp"], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"bench.xdp: {done.stderr}")
    return msgspec.json.decode(done.stdout, type=list[Row])


class Edge:
    """Frames enter at `in`; what leaves by `out` is counted and dropped at its other end."""

    def __init__(self) -> None:
        build_generator()
        for name, peer in (("in", "in-peer"), ("out", "sink")):
            ip("link", "add", name, "mtu", "2000", "type", "veth", "peer", "name", peer, "mtu", "2000")
            ip("link", "set", name, "up")
            ip("link", "set", peer, "up")
        for setting in ("all.forwarding=1", "sink.disable_ipv6=1", "in-peer.disable_ipv6=1"):
            subprocess.run(["sysctl", "-qw", f"net.ipv6.conf.{setting}"], check=True)
        self.index = socket.if_nametoindex("in")
        self.generator = Object(GENERATOR)
        self.generator.load()
        self.pipeline = Object()
        buckets = FLOW_CACHE_ENTRIES // 4
        self.pipeline.set_constants({"flow_cache_buckets": buckets})
        self.pipeline.resize(dict.fromkeys(("flow_cache", "flow_cache_tag"), buckets * POSSIBLE_CPUS))
        self.pipeline.load()
        self.sink = Link.create(self.generator.program("sink"), socket.if_nametoindex("sink"))
        self.trace = self.generator.map("trace").mapped(writable=True).view(np.uint64).ravel()
        self._set_template()
        self._set_ports()
        self._set_entries()
        self._set_kernel_route()

    def _set_template(self) -> None:
        ethernet = mac("in") + bytes.fromhex("020000000099") + b"\x86\xdd"
        payload = FRAME_BYTES - 54
        ipv6 = (
            struct.pack("!IHBB", 6 << 28, payload, socket.IPPROTO_UDP, 64)
            + address("2001:db8:1::")
            + address("2001:db8:2::")
        )
        self.frame = (ethernet + ipv6 + struct.pack("!HHHH", 0, 443, payload, 0x1234)).ljust(FRAME_BYTES, b"\0")
        self.generator.map("template").update(bytes(4), self.frame[:62])

    def _set_ports(self) -> None:
        for number, name in ((PORT_IN, "in"), (PORT_OUT, "out")):
            key, index = struct.pack("=I", number), struct.pack("=I", socket.if_nametoindex(name))
            self.pipeline.map("port_number").update(index, key)
            self.pipeline.map("port").update(key, struct.pack("=6sBx4s4x16s", mac(name), 2, bytes(4), bytes(16)))
            self.pipeline.map("tx_port").update(key, index)

    def _set_entries(self) -> None:
        layout = of(load())
        tables = Tables(layout, {name: self.pipeline.map(name) for name in map_names(layout)})
        by_table: dict[str, list[TableEntry]] = {}
        for entry in edge_entries():
            by_table.setdefault(entry.table, []).append(entry)
        for name, entries in by_table.items():
            table = layout.by_name[name]
            faults = tables.write(
                [Run(Operation.INSERT, table, from_packed(table, [pack(table, one) for one in entries]), 0)]
            )
            if faults:
                raise RuntimeError(f"{name}: {faults}")

    def _set_kernel_route(self) -> None:
        ip("-6", "address", "add", "fd00::1/64", "dev", "out", "nodad")
        ip("-6", "neighbor", "replace", "fd00::2", "lladdr", mac("sink").hex(":"), "dev", "out", "nud", "permanent")
        ip("-6", "route", "add", "5f00::/16", "via", "fd00::2", "dev", "out")
        ip(
            "-6",
            "route",
            "add",
            "2001:db8:2::/48",
            "encap",
            "seg6",
            "mode",
            "encap",
            "segs",
            ",".join(SEGMENTS),
            "dev",
            "out",
        )

    def received(self) -> int:
        return sum(struct.unpack("=Q", one)[0] for one in self.generator.map("received").lookup_per_cpu(bytes(4)))

    def measure(self, what: str | None, packets: int) -> float:
        """Nanoseconds a packet; `what`: the program, None: the kernel's stack."""
        measured = self.generator.map("measured")
        measured.delete(bytes(4))
        if what:
            measured.update(bytes(4), struct.pack("=I", self.pipeline.program(what).fd))
        program = self.generator.program("generate")
        program.run_live(self.frame, ifindex=self.index, repeat=packets // 10)
        before, started_ns = self.received(), time.perf_counter_ns()
        program.run_live(self.frame, ifindex=self.index, repeat=packets)
        taken_ns, arrived = time.perf_counter_ns() - started_ns, self.received() - before
        if arrived < 0.999 * packets:
            raise RuntimeError(f"{what or 'kernel'}: {arrived} of {packets} packets arrived")
        return taken_ns / packets


def edge_entries() -> Iterable[TableEntry]:
    """4,096 pairs of prefixes, each with a leg of its own; 1,024 SR Policies of two segments."""

    def exact(**fields: int) -> tuple[FieldMatch, ...]:
        return tuple(FieldMatch(name, value) for name, value in fields.items())

    def prefix(field: str, text: str, length: int) -> FieldMatch:
        return FieldMatch(field, int.from_bytes(address(text)), prefix_length=length)

    yield TableEntry("attachment", exact(ingress_port=PORT_IN, vlan_id=0), "attach", (("context", CONTEXT),))
    guard = (*exact(ingress_port=PORT_IN), prefix("source", "2001:db8:1::", 48))
    yield TableEntry("source_guard", guard, "admit")
    for number in range(PREFIXES):
        for side, net in (("source", 1), ("destination", 2)):
            match = (*exact(context=CONTEXT), prefix("address", f"2001:db8:{net}:{number:x}::", 64))
            yield TableEntry(f"{side}_group", match, f"set_{side}_group", (("group", number + 1),))
    for leg in range(PREFIXES * PREFIXES):
        source, destination = 1 + leg % PREFIXES, 1 + leg // PREFIXES
        groups = (
            FieldMatch("source_group", source, mask=0xFFFF),
            FieldMatch("destination_group", destination, mask=0xFFFF),
        )
        yield TableEntry("flow_policy", (*exact(context=CONTEXT), *groups), "permit", (("leg", leg),), priority=10)
        steering = (("sr_policy", leg % SR_POLICIES), ("liveness_group", leg % 16))
        yield TableEntry("steer", exact(leg=leg), "encapsulate", steering)
    for group in range(16):
        yield TableEntry("path_liveness", exact(liveness_group=group), "set_live", (("live", 1),))
    for number in range(SR_POLICIES):
        segments = [int.from_bytes(address(one)) for one in reversed(SEGMENTS)] + [0] * 6
        params = (
            ("source", int.from_bytes(address("5f00:9:1:1::"))),
            ("dscp", 0),
            ("color", number),
            ("inner_mtu", 1500),
            ("count", len(SEGMENTS)),
            *((f"segment_list_{place}", segment) for place, segment in enumerate(segments)),
        )
        match = (*exact(sr_policy=number), FieldMatch("live", 1, mask=1))
        yield TableEntry("sr_policy", match, "h_encaps", params, priority=8)
    fabric = (*exact(context=0), prefix("destination", "5f00:9::", 32))
    yield TableEntry("route", fabric, "set_next_hop", (("next_hop", 1),))
    macs = (("source_mac", int.from_bytes(mac("out"))), ("destination_mac", int.from_bytes(mac("sink"))))
    yield TableEntry("next_hop", exact(next_hop=1), "forward", (("port", PORT_OUT), *macs, ("vlan", 0)))


def uniform(flows: int) -> NDArray[np.uint64]:
    return np.random.default_rng(1).integers(0, flows, TRACE_LENGTH, dtype=np.uint64)


def zipf(flows: int, exponent: float) -> NDArray[np.uint64]:
    random = np.random.default_rng(2)
    weights = np.arange(1, flows + 1) ** -exponent
    return random.permutation(flows).astype(np.uint64)[random.choice(flows, TRACE_LENGTH, p=weights / weights.sum())]


def measure() -> list[Row]:
    os.sched_setaffinity(0, {CPU})
    edge = Edge()
    cases = {
        "kernel": (None, uniform(1024), 200_000),
        "1k": ("pipeline", uniform(1024), 1_000_000),
        "65k uniform": ("pipeline", uniform(65536), 1_000_000),
        "65k zipf": ("pipeline", zipf(65536, 1.1), 1_000_000),
    }
    edge.trace[:] = cases["65k uniform"][1]
    edge.measure("pipeline", 2_000_000)
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(REPETITIONS):
        for name, (program, trace, packets) in cases.items():
            edge.trace[:] = trace
            taken[name].append(edge.measure(program, packets))
    ns = {name: statistics.median(values) for name, values in taken.items()}
    return [
        row(
            "main.edge_known_flow",
            ns["1k"],
            "ns/packet",
            better="lower",
            target=5,
            peer="kernel seg6",
            peer_value=ns["kernel"],
        ),
        row("main.flows_65k_uniform_vs_1k", ns["65k uniform"] / ns["1k"], "times the cost", better="lower", target=1.7),
        row("main.flows_65k_zipf_vs_1k", ns["65k zipf"] / ns["1k"], "times the cost", better="lower", target=1.3),
        row("main.flow_records_100k_ms", flow_records_ms(edge), "ms", better="lower", target=15),
    ]


def flow_records_ms(edge: Edge) -> float:
    edge.trace[:] = uniform(110_000)
    edge.measure("pipeline", 2_000_000)
    cache = FlowCache(
        edge.pipeline.map("flow_cache").fd, FLOW_CACHE_ENTRIES // 4 * POSSIBLE_CPUS, JiffiesClock.calibrated()
    )
    taken = []
    for _ in range(9):
        started_s = time.perf_counter()
        count = len(cache.read())
        taken.append((time.perf_counter() - started_s) * 1e3)
        if count < 100_000:
            raise RuntimeError(f"only {count} flow records in the cache")
    return statistics.median(taken)


def build_generator() -> None:
    if GENERATOR.exists() and GENERATOR.stat().st_mtime > SOURCE.stat().st_mtime:
        return
    GENERATOR.parent.mkdir(parents=True, exist_ok=True)
    command = ["clang", "-O2", "-g", "-target", "bpf", "-mcpu=v3", f"-I/usr/include/{os.uname().machine}-linux-gnu"]
    subprocess.run([*command, "-c", str(SOURCE), "-o", str(GENERATOR)], check=True)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, stdout=sys.stderr)


def mac(device: str) -> bytes:
    # Not /sys: it shows the network namespace it was mounted in.
    shown = subprocess.run(["ip", "-j", "link", "show", device], check=True, capture_output=True).stdout
    return bytes.fromhex(json.loads(shown)[0]["address"].replace(":", ""))


def address(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, text)


if __name__ == "__main__":
    print(json.dumps(msgspec.to_builtins(measure())))
