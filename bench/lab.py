"""The reference lab as a person uses it: how soon an intent works, how soon it stops, what the processes weigh."""

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from bench import flows, tunnel
from bench.report import Row, row
from bench.slices import Slices

ROOT = Path(__file__).resolve().parent.parent
STITCH = str(ROOT / ".venv/bin/stitch")
INTENT = "topologies/intents/order-processing.yaml"
ROUNDS = 5
PING_INTERVAL_S = 0.02
IDLE_S = 60.0


def rows() -> list[Row]:
    name = f"bench-{os.getpid()}"
    stitch("lab", "up", "topologies/three-domains.yaml", "--lab", name)
    try:
        status = json.loads(stitch("lab", "status", "-o", "json", "--lab", name))
        host = status["hosts"]["cx1"]["namespace"]
        taken = Slices()
        for _ in range(ROUNDS):
            taken.add("works", seconds_to_first_answer(name, host))
            taken.add("stops", seconds_to_silence(name, host))
            time.sleep(1)
        stitch("--lab", name, "--domain", "shop", "apply", "-f", INTENT, "--wait", "50")
        figures = [*memory(status), *idle(status), *tunnel.rows(status)]
        stitch("--lab", name, "--domain", "shop", "delete", "intent/order-processing")
        works, stops = taken.median("works"), taken.median("stops")
        return [
            row("main.apply_to_ping_s", works, "s", better="lower", target=2, spread=taken.spread("works")),
            row("main.withdraw_to_stop_s", stops, "s", better="lower", target=1, spread=taken.spread("stops")),
            *figures,
            *flows.rows(name, status),
        ]
    finally:
        stitch("lab", "down", "--lab", name)


def stitch(*arguments: str) -> str:
    done = subprocess.run([STITCH, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"stitch {' '.join(arguments)} (exit {done.returncode}): {done.stderr}")
    return done.stdout


def pings(host: str, seconds: float) -> subprocess.Popen[str]:
    """Steady pings from cx1 to ay1; each answer is a line that begins with its Unix time."""
    command = [
        "nsenter",
        f"--net={host}",
        "ping",
        "-D",
        "-n",
        "-i",
        str(PING_INTERVAL_S),
        "-w",
        str(int(seconds)),
        "10.2.0.10",
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def answers(running: subprocess.Popen[str]) -> list[float]:
    return [
        float(answered_at)
        for answered_at in re.findall(r"^\[([\d.]+)\] \d+ bytes from", running.communicate()[0], re.M)
    ]


def seconds_to_first_answer(name: str, host: str) -> float:
    """From the start of the command, the client's own start included."""
    running = pings(host, 8)
    time.sleep(0.3)
    began_s = time.time()
    stitch("--lab", name, "--domain", "shop", "apply", "-f", INTENT)
    heard = answers(running)
    if not heard:
        raise RuntimeError("no ping was answered within 8 s of stitch apply")
    return heard[0] - began_s


def seconds_to_silence(name: str, host: str) -> float:
    running = pings(host, 4)
    time.sleep(0.5)
    began_s = time.time()
    stitch("--lab", name, "--domain", "shop", "delete", "intent/order-processing")
    heard = answers(running)
    if not heard or heard[-1] < began_s - 1:
        raise RuntimeError("the intent did not carry traffic before it was withdrawn")
    return max(heard[-1] - began_s, 0.0)


def memory(status: dict[str, Any]) -> list[Row]:
    def largest(parts: dict[str, Any]) -> float:
        return max(resident_mb(part["pid"]) for part in parts.values())

    return [
        row("main.agent_memory_mb", largest(status["nodes"]), "MB", better="lower", target=150),
        row("main.controller_memory_mb", largest(status["domains"]), "MB", better="lower", target=300),
    ]


def idle(status: dict[str, Any]) -> list[Row]:
    """CPU time with the intent in place and nothing else to do, of the busiest agent and controller."""
    time.sleep(IDLE_S / 4)  # what follows the intent is done

    def busiest(parts: dict[str, Any], before: dict[str, float]) -> float:
        return max(cpu_s(part["pid"]) - before[name] for name, part in parts.items()) / IDLE_S * 100

    before = {name: cpu_s(process["pid"]) for part in ("nodes", "domains") for name, process in status[part].items()}
    time.sleep(IDLE_S)
    return [
        row("scale.idle_agent_percent", busiest(status["nodes"], before), "% of a core", better="lower", target=0.5),
        row("scale.idle_controller_percent", busiest(status["domains"], before), "% of a core", better="lower"),
    ]


def cpu_s(pid: int) -> float:
    """Of all its threads that live now."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def resident_mb(pid: int) -> float:
    resident = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if not resident:
        raise RuntimeError(f"process {pid} is gone")
    return int(resident.group(1)) / 1024
