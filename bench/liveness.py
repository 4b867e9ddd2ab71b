"""Ways that stay alive, in the reference lab: what is lost where a link fails, swallows packets, becomes slow or a node
is drained; what probes cost.

Of echo requests at 1,000 a second those count that do not reach ay1; both ways together are a figure beside it. A link
is cut between t1 and tc1, which t1 sends by. What is planned is to lose nothing, both ways. The cost is that of the
sender: the CPU time of its agent, and of XDP on what comes back; links of the lab are TAP devices, so that what the far
end does is another process'.
"""

import json
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from bench.lab import INTENT, cpu_s, stitch
from bench.report import Row, row
from bench.slices import Slices
from dataplane.host_api import SYNC, HostState, Probe, encode
from dataplane.xdp.bpf import Map
from tests.echo_load import EchoLoad

ROUNDS = 10
TAIL_S = 2.0
"""How late an answer may come; some do not, in each round."""
LIMIT_S = 150.0
"""For the rounds of each kind, of which there are fewer on a busy machine, but three."""
USED_S = 120.0
"""Until the way is taken again that fell out: paths that failed often are on hold for 64 s."""
DELAY_MS = 2
"""Of the link, as topologies/three-domains.yaml has it."""
PATHS, INTERVAL_MS, MEASURED_S = 200, 10, 10.0


def rows() -> list[Row]:
    name = f"bench-{os.getpid()}"
    stitch("lab", "up", "topologies/three-domains.yaml", "--lab", name)
    try:
        status = json.loads(stitch("lab", "status", "-o", "json", "--lab", name))
        stitch("--lab", name, "--domain", "shop", "apply", "-f", INTENT, "--wait", "50")
        return [*_fail_over(name, status), *_planned(name, status), *_cost(status)]
    finally:
        stitch("lab", "down", "--lab", name)


def _fail_over(name: str, status: dict[str, Any]) -> list[Row]:
    figures = []
    for kind, broken, whole, median, worst in (
        ("link_fail", ("down",), ("up",), 5, 30),
        ("grey_fail", ("set", "loss=100"), ("set", "loss=0"), 45, 60),
    ):
        taken = Slices()
        most = 0
        late_s = time.monotonic() + LIMIT_S
        for number in range(ROUNDS):
            if number >= 3 and time.monotonic() > late_s:
                break
            _wait_until_used(name, status)
            requests, both = _lost(name, status, broken)
            stitch("lab", "link", "t1", "tc1", *whole, "--lab", name)
            taken.add("requests", requests)
            taken.add("both", both)
            most = max(most, requests)
        figures += [
            row(f"know.{kind}_lost", taken.median("requests"), "packets", better="lower", target=median),
            row(f"know.{kind}_lost_worst", most, "packets", better="lower", target=worst),
            row(f"know.{kind}_lost_both_ways", taken.median("both"), "packets", better="lower"),
        ]
    return figures


def _wait_until_used(name: str, status: dict[str, Any], by: str = "tc1") -> None:
    """The traffic takes the way over it first, and neither end finds any path dead, for a while."""
    late_s, since = time.monotonic() + USED_S, 0
    with _dead_paths(status, "t1") as near, _dead_paths(status, "t2") as far:
        while time.monotonic() < late_s:
            agreements = json.loads(stitch("--lab", name, "--domain", "transit", "get", "agreements", "-o", "json"))
            is_used = any(by in agreement["status"]["path"] for agreement in agreements)
            since = since + 1 if is_used and not _any_dead(near) and not _any_dead(far) else 0
            if since == 4:
                return
            time.sleep(0.5)
    raise RuntimeError(f"the way over {by} is not taken again after {USED_S} s")


def _dead_paths(status: dict[str, Any], node: str) -> Map:
    pid = status["nodes"][node]["pid"]
    pin_dir = json.loads(Path(_argument(pid, "--config")).read_text())["pin_dir"]
    (path,) = Path(f"/proc/{pid}/root{pin_dir}").glob("maps-*/path_dead")
    return Map.open_pinned(path)


def _any_dead(paths: Map) -> bool:
    return bool(paths.mapped(writable=False).view(np.uint32)[:, 0].any())


def _planned(name: str, status: dict[str, Any]) -> list[Row]:
    """Moved by what is measured, and by an operator."""
    slow_ms = DELAY_MS + 15
    _wait_until_used(name, status)
    with loaded(status) as load:
        stitch("lab", "link", "t1", "tc1", "set", f"delay={slow_ms}", "--lab", name)
        _wait_until_used(name, status, by="tc2")
    by_delay = load.lost()
    stitch("lab", "link", "t1", "tc1", "set", f"delay={DELAY_MS}", "--lab", name)
    with loaded(status) as load:
        stitch("--lab", name, "--domain", "transit", "node", "drain", "tc2")
        _wait_until_used(name, status)
    drained = load.lost()
    stitch("--lab", name, "--domain", "transit", "node", "undrain", "tc2")
    return [
        row("know.planned_move_lost", by_delay, "packets", better="lower", target=0),
        row("know.drain_lost", drained, "packets", better="lower", target=0),
    ]


@contextmanager
def loaded(status: dict[str, Any]) -> Iterator[EchoLoad]:
    """Echoes before, meanwhile and afterwards."""
    source = status["hosts"]["cx1"]["namespace"]
    load = EchoLoad(lambda *program: [*_inside(source), *program], "10.2.0.10")
    load.answered(300)
    yield load
    load.answered(500)


def _lost(name: str, status: dict[str, Any], broken: tuple[str, ...]) -> tuple[int, int]:
    """Requests, and requests whose answers did not come."""
    source, target = (status["hosts"][host]["namespace"] for host in ("cx1", "ay1"))
    before = _echoes(target)
    load = EchoLoad(lambda *program: [*_inside(source), *program], "10.2.0.10", tail_s=TAIL_S)
    load.answered(300)
    stitch("lab", "link", "t1", "tc1", *broken, "--lab", name)
    load.answered(500)
    sent, received = load.counts()
    return sent - (_echoes(target) - before), sent - received


def _echoes(namespace: str) -> int:
    """Requests that the host's kernel has seen."""
    command = [*_inside(namespace), "cat", "/proc/net/snmp"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names, values = (line.split() for line in shown.splitlines() if line.startswith("Icmp:"))
    return int(values[names.index("InEchos")])


def _inside(namespace: str) -> list[str]:
    return ["nsenter", f"--net={namespace}"]


def _cost(status: dict[str, Any]) -> list[Row]:
    os.kill(status["domains"]["transit"]["pid"], 9)  # it would take the probes away again
    pid = status["nodes"]["t1"]["pid"]
    listen = json.loads(Path(_argument(pid, "--config")).read_text())["listen"]
    probes = tuple(
        Probe(
            port=1 + number % 2,
            source="5f00:2:1::",
            containers=(("5f00:2:2:1::", "5f00:2:3:1::")[number % 2],),
            interval_ms=INTERVAL_MS,
            liveness_group=1000 + number,
            slot=0,
        )
        for number in range(PATHS)
    )
    with grpc.insecure_channel(listen) as channel:
        channel.unary_unary(SYNC.path)(encode(HostState(probes=probes)), timeout=30)
        _use_all(status, 2)
        stats = Path("/proc/sys/kernel/bpf_stats_enabled")
        stats.write_text("1")
        program = _program(pid)
        before_s, before = cpu_s(pid), _run_time_s(program)
        _use_all(status, MEASURED_S)
        used = cpu_s(pid) - before_s + _run_time_s(program) - before
        stats.write_text("0")
    return [row("know.probe_cpu_percent", 100 * used / MEASURED_S, "% of a core", better="lower", target=3)]


def _use_all(status: dict[str, Any], seconds: float) -> None:
    """For so long the agent finds that each path has carried something: what is idle is probed more seldom."""
    until_s = time.monotonic() + seconds
    with _dead_paths(status, "t1") as paths:
        while time.monotonic() < until_s:
            for number in range(PATHS):
                paths.update(struct.pack("=I", 1000 + number), struct.pack("=IIII", 0, 1, 0, 0))
            time.sleep(0.5)


def _argument(pid: int, name: str) -> str:
    arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return arguments[arguments.index(name) + 1]


def _program(pid: int) -> str:
    """Id of the pipeline that the agent has loaded."""
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        said = dict(line.split(":\t", 1) for line in info.read_text().splitlines() if ":\t" in line)
        if said.get("prog_type") == "6" and "prog_id" in said:
            return said["prog_id"]
    raise RuntimeError(f"process {pid} has no XDP program")


def _run_time_s(program: str) -> float:
    shown = json.loads(
        subprocess.run(["bpftool", "-j", "prog", "show", "id", program], capture_output=True, check=True).stdout
    )
    return float(shown.get("run_time_ns", 0)) / 1e9
