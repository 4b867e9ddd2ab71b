"""One node, counted at an XDP sink: known flows through an edge's whole pipeline against the kernel's SRv6
encapsulation, and packets in transit (End) against the kernel's seg6_local.

Both get the same live frames at the same interface and send them over the same veth, on one CPU, in short slices that
take turns. What counts is CPU time: that of the thread that sends, which carries the packets up to the sink, and that
of the kernel's ksoftirqd, where the kernel hands work on to it. So other processes only take away by cold caches, and
the lower quartile of the slices is what the work costs.
"""

import json
import os
import socket
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
from bench.slices import Slices
from dataplane.entry import FieldMatch, TableEntry
from dataplane.p4runtime.codec import pack
from dataplane.p4runtime.columns import from_packed
from dataplane.p4runtime.p4info import load
from dataplane.tables.layout import of
from dataplane.tables.node_tables import Run, Tables, map_names
from dataplane.tables.stores import Operation
from dataplane.xdp.bpf import POSSIBLE_CPUS, Link, Object
from dataplane.xdp.flow_cache import FlowCache
from dataplane.xdp.jiffies import JiffiesClock

SOURCE = Path("bench/generator.bpf.c")
GENERATOR = Path("build/bench/generator.bpf.o")
FRAME_BYTES = 100
TRACE_LENGTH = 1 << 18
FLOW_CACHE_ENTRIES = 1 << 18
ROUNDS = 40
PREFIXES = 64
SR_POLICIES = 1024
VRF, POLICY_CLASS, PORT_IN, PORT_OUT, PORT_LINK = 7, 8, 1, 2, 3
LINK_CLASS = 1
SEGMENTS = ("5f00:9:2::", "5f00:9:3:e001::")
"""A path of two nodes, as the kernel has it: the last one decapsulates."""
CONTAINER = "5f00:9:2:3:e001::"
"""The same path."""
END = ("encap", "seg6local", "action", "End", "flavors", "next-csid", "lblen", "32", "nflen", "16")
CPU = 1


def rows() -> list[Row]:
    """In a network namespace of its own, that goes with the process."""
    done = subprocess.run(["unshare", "--net", sys.executable, "-m", "bench.xdp"], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"bench.xdp: {done.stderr}")
    return msgspec.json.decode(done.stdout, type=list[Row])


class Edge:
    """Hosts' frames enter at `in`, encapsulated ones at `fabric`; what leaves by `out` is counted and dropped at its
    other end."""

    def __init__(self) -> None:
        build_generator()
        for name, peer in (("in", "in-peer"), ("fabric", "fabric-peer"), ("out", "sink")):
            ip("link", "add", name, "mtu", "2000", "type", "veth", "peer", "name", peer, "mtu", "2000")
            ip("link", "set", name, "up")
            ip("link", "set", peer, "up")
        silent = ("sink.disable_ipv6=1", "in-peer.disable_ipv6=1", "fabric-peer.disable_ipv6=1")
        for setting in ("all.forwarding=1", "all.seg6_enabled=1", "fabric.seg6_enabled=1", *silent):
            subprocess.run(["sysctl", "-qw", f"net.ipv6.conf.{setting}"], check=True)
        self.ksoftirqd = ksoftirqd(CPU)
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
        inner = self.frame[14:]
        outer = struct.pack("!IHBB", 6 << 28, len(inner), socket.IPPROTO_IPV6, 64)
        outer += address("5f00:9:1::") + address(CONTAINER)
        self.encapsulated = mac("fabric") + bytes.fromhex("020000000099") + b"\x86\xdd" + outer + inner
        self.generator.map("outer").update(bytes(4), self.encapsulated[:54])
        self.generator.map("out").update(bytes(4), struct.pack("=I", socket.if_nametoindex("out")))

    def _set_ports(self) -> None:
        for number, name in ((PORT_IN, "in"), (PORT_OUT, "out"), (PORT_LINK, "fabric")):
            key, index = struct.pack("=I", number), struct.pack("=I", socket.if_nametoindex(name))
            self.pipeline.map("port_number").update(index, key)
            self.pipeline.map("port").update(
                key, struct.pack("=6sBxH2x4s8x16s", mac(name), 2, 2000, bytes(4), bytes(16))
            )
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
                [Run(Operation.INSERT, table, from_packed(table, [pack(table, entry) for entry in entries]), 0)]
            )
            if faults:
                raise RuntimeError(f"{name}: {faults}")

    def _set_kernel_route(self) -> None:
        ip("-6", "address", "add", "fd00::1/64", "dev", "out", "nodad")
        ip("-6", "neighbor", "replace", "fd00::2", "lladdr", mac("sink").hex(":"), "dev", "out", "nud", "permanent")
        ip("-6", "route", "add", "5f00::/16", "via", "fd00::2", "dev", "out")
        ip("-6", "route", "add", f"{SEGMENTS[0]}/48", *END, "dev", "out")
        self.kernel_encapsulates("encap")

    def kernel_encapsulates(self, mode: str) -> None:
        """`encap`: with an SRH of all segments; `encap.red`: without the first (RFC 8986 §5.2)."""
        segments = ("encap", "seg6", "mode", mode, "segs", ",".join(SEGMENTS))
        ip("-6", "route", "replace", "2001:db8:2::/48", *segments, "dev", "out")

    def received(self) -> int:
        return sum(struct.unpack("=Q", count)[0] for count in self.generator.map("received").lookup_per_cpu(bytes(4)))

    def measure(self, what: str | None, packets: int, *, transit: bool = False) -> float:
        """Nanoseconds of CPU a packet; `what`: the program, None: the kernel's stack."""
        frame, index = (self.encapsulated, "fabric") if transit else (self.frame, "in")
        ifindex = socket.if_nametoindex(index)
        measured = self.generator.map("measured")
        measured.delete(bytes(4))
        if what:
            program = (self.generator if what == "redirect" else self.pipeline).program(what)
            measured.update(bytes(4), struct.pack("=I", program.fd))
        program = self.generator.program("transit" if transit else "generate")
        program.run_live(frame, ifindex=ifindex, repeat=packets // 10)
        before, started_ns = self.received(), time.thread_time_ns() + self.softirqs_ns()
        program.run_live(frame, ifindex=ifindex, repeat=packets)
        taken_ns = time.thread_time_ns() + self.softirqs_ns() - started_ns
        arrived = self.received() - before
        if arrived < 0.999 * packets:
            raise RuntimeError(f"{what or 'kernel'}: {arrived} of {packets} packets arrived")
        return taken_ns / packets

    def softirqs_ns(self) -> int:
        return int(self.ksoftirqd.read_text().split()[0])


def ksoftirqd(cpu: int) -> Path:
    """CPU time in ns that the kernel's thread for deferred softirqs has had: the first field of schedstat."""
    for process in Path("/proc").glob("[0-9]*"):
        if (process / "comm").read_text() == f"ksoftirqd/{cpu}\n":
            return process / "schedstat"
    raise RuntimeError(f"there is no ksoftirqd/{cpu}: run the benchmark in the machine's own process namespace")


def edge_entries() -> Iterable[TableEntry]:
    """4,096 pairs of prefixes, each with a forwarding class of its own; 1,024 SR Policies of two nodes."""

    def exact(**fields: int) -> tuple[FieldMatch, ...]:
        return tuple(FieldMatch(name, value) for name, value in fields.items())

    def prefix(field: str, text: str, length: int) -> FieldMatch:
        return FieldMatch(field, int.from_bytes(address(text)), prefix_length=length)

    yield TableEntry(
        "attachment", exact(ingress_port=PORT_IN, vlan_id=0), "attach", (("vrf", VRF), ("policy_class", POLICY_CLASS))
    )
    yield TableEntry("attachment", exact(ingress_port=PORT_LINK, vlan_id=0), "link", (("ingress_class", LINK_CLASS),))
    yield TableEntry("local_sid", (*exact(ingress_class=LINK_CLASS), prefix("destination", SEGMENTS[0], 48)), "end")
    guard = (*exact(ingress_port=PORT_IN), prefix("source", "2001:db8:1::", 48))
    yield TableEntry("source_guard", guard, "admit")
    for number in range(PREFIXES):
        for side, net in (("source", 1), ("destination", 2)):
            match = (*exact(vrf=VRF), prefix("address", f"2001:db8:{net}:{number:x}::", 64))
            yield TableEntry(f"{side}_group", match, f"set_{side}_group", (("group", number + 1),))
    service = int.from_bytes(address(SEGMENTS[1]))
    for number in range(PREFIXES * PREFIXES):
        source, destination = 1 + number % PREFIXES, 1 + number // PREFIXES
        groups = (
            FieldMatch("source_group", source, mask=0xFFFF),
            FieldMatch("destination_group", destination, mask=0xFFFF),
        )
        match = (*exact(policy_class=POLICY_CLASS), *groups)
        yield TableEntry("flow_policy", match, "permit", (("forwarding_class", number),), priority=10)
        transport = (("sr_policy", number % SR_POLICIES), ("liveness_group", number % 16))
        steering = (*transport, ("service_sid", service), ("dscp", 0), ("inner_mtu", 1500))
        yield TableEntry("steer", exact(forwarding_class=number), "encapsulate", steering)
    for group in range(16):
        yield TableEntry("path_liveness", exact(liveness_group=group), "set_live", (("live", 1),))
    for number in range(SR_POLICIES):
        params = (
            ("source", int.from_bytes(address("5f00:9:1::"))),
            ("color", number),
            ("first_hop", 1),
            ("last_container", 0),
            ("merge_bits", 16),
            ("container_0", int.from_bytes(address(SEGMENTS[0]))),
            *((f"container_{place}", 0) for place in (1, 2, 3)),
        )
        match = (*exact(sr_policy=number), FieldMatch("live", 1, mask=1))
        yield TableEntry("sr_policy", match, "h_encaps", params, priority=8)
    fabric = (*exact(vrf=0), prefix("destination", "5f00:9::", 32))
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
        "kernel": (None, uniform(1024), 20_000),
        "kernel red": (None, uniform(1024), 20_000),
        "floor": ("redirect", uniform(1024), 100_000),
        "1k": ("pipeline", uniform(1024), 100_000),
        "65k uniform": ("pipeline", uniform(65536), 200_000),
        "65k zipf": ("pipeline", zipf(65536, 1.1), 200_000),
    }
    edge.trace[:] = cases["65k uniform"][1]
    edge.measure("pipeline", 2_000_000)
    ns = Slices()
    for _ in range(ROUNDS):
        for name, (program, trace, packets) in cases.items():
            if program is None:
                edge.kernel_encapsulates("encap.red" if name == "kernel red" else "encap")
            edge.trace[:] = trace
            ns.add(name, edge.measure(program, packets))
        ns.add("end", edge.measure("pipeline", 100_000, transit=True))
        ns.add("kernel end", edge.measure(None, 20_000, transit=True))

    def against_kernel(name: str, peer: str, case: str, target: float | None = None, ours: str = "1k") -> Row:
        value, peer_value, spread = ns.lower(ours), ns.lower(case), ns.spread(ours, case)
        return row(
            name,
            value,
            "ns/packet",
            better="lower",
            target=target,
            peer=peer,
            peer_value=peer_value,
            spread=spread,
        )

    def against_1k(name: str, case: str, target: float) -> Row:
        value = ns.lower(case) / ns.lower("1k")
        return row(name, value, "times the cost", better="lower", target=target, spread=ns.spread("1k", case))

    def over_floor(name: str, target: float) -> Row:
        value = ns.lower("1k") / ns.lower("floor")
        return row(name, value, "times a redirect", better="lower", target=target, spread=ns.spread("floor", "1k"))

    return [
        against_kernel("main.edge_known_flow", "kernel seg6", "kernel", 8),
        against_kernel("main.edge_known_flow_red", "kernel encap.red", "kernel red", 5),
        over_floor("main.edge_over_floor", 1.6),
        against_kernel("main.transit_end", "kernel seg6_local End with NEXT-CSID", "kernel end", 4, ours="end"),
        against_1k("main.flows_65k_uniform_vs_1k", "65k uniform", 1.5),
        against_1k("main.flows_65k_zipf_vs_1k", "65k zipf", 1.2),
        flow_records(edge),
    ]


def flow_records(edge: Edge) -> Row:
    edge.trace[:] = uniform(110_000)
    edge.measure("pipeline", 2_000_000)
    cache = FlowCache(
        edge.pipeline.map("flow_cache").fd, FLOW_CACHE_ENTRIES // 4 * POSSIBLE_CPUS, JiffiesClock.calibrated()
    )
    taken = Slices()
    for _ in range(9):
        started_s = time.perf_counter()
        count = len(cache.read())
        taken.add("read", (time.perf_counter() - started_s) * 1e3)
        if count < 100_000:
            raise RuntimeError(f"only {count} flow records in the cache")
    spread = taken.spread("read")
    return row("main.flow_records_100k_ms", taken.lower("read"), "ms", better="lower", target=15, spread=spread)


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
