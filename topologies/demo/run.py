"""What the parts of the demo have in common: they type commands as a person would, print what was really seen, and
remember what did not hold. Captures and a transcript stay in build/demo/."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from topologies import lab
from topologies.readback import entries_on

ROOT = Path(__file__).resolve().parent.parent.parent
STITCH = str(ROOT / ".venv/bin/stitch")
REPORT = ROOT / "build/demo"


class Demo:
    """Prints, checks, and remembers what did not hold."""

    def __init__(self, lab_name: str, domain: str) -> None:
        """`domain`: whose controller is asked where nothing else is said."""
        self.lab = lab_name
        self.domain = domain
        self.failed: list[str] = []
        self.started_s = time.monotonic()
        REPORT.mkdir(parents=True, exist_ok=True)
        self.transcript = (REPORT / f"{lab_name.rpartition('-')[0]}.txt").open("w")

    def say(self, text: str = "") -> None:
        print(text, flush=True)
        print(text, file=self.transcript, flush=True)

    def step(self, title: str) -> None:
        self.say(f"\n[{time.monotonic() - self.started_s:5.1f} s] {title}")

    def check(self, what: str, passed: bool, seen: str) -> None:
        self.say(f"  {'ok  ' if passed else 'FAIL'} {what}: {seen}")
        if not passed:
            self.failed.append(what)

    def stitch(self, *arguments: str, domain: str = "", check: bool = True, timeout_s: float = 60) -> str:
        command = [STITCH, "--lab", self.lab, "--domain", domain or self.domain, *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)
        if check and done.returncode != 0:
            raise RuntimeError(f"stitch {' '.join(arguments)} (exit {done.returncode}): {done.stderr or done.stdout}")
        return done.stdout

    def get(self, kind: str, domain: str = "") -> list[dict[str, Any]]:
        answer = json.loads(self.stitch("get", kind, "-o", "json", domain=domain))
        return answer if isinstance(answer, list) else [answer]

    def on(self, host: str, *command: str, timeout_s: float = 20) -> subprocess.CompletedProcess[str]:
        """What `stitch lab exec` does, without a new interpreter each time."""
        return lab.execute(lab.find(self.lab), host, *command, timeout_s=timeout_s)

    def ping(self, host: str, address: str, count: int = 2) -> float | None:
        """Mean round-trip time in ms, None without an answer."""
        done = self.on(host, "ping", "-c", str(count), "-i", "0.2", "-W", "1", "-q", address)
        round_trip = re.search(r"= [\d.]+/([\d.]+)/", done.stdout)
        return float(round_trip.group(1)) if round_trip and done.returncode == 0 else None

    def talk(self, host: str, address: str, port: int, words: str) -> str:
        """What a TCP server answers to `words`; empty without an answer."""
        script = (
            "import socket, sys\n"
            f"s = socket.create_connection(({address!r}, {port}), timeout=1.5)\n"
            f"s.settimeout(1.5); s.sendall({words.encode()!r} + bytes(1)); s.shutdown(1)\n"
            "print(s.makefile().read())\n"
        )
        done = self.on(host, sys.executable, "-c", script)
        return done.stdout.strip() if done.returncode == 0 else ""

    def drops(self, domain: str) -> dict[tuple[str, str], int]:
        """(node, reason) to packets."""
        return {
            (load["node"], load["reason"]): load["packets"]
            for load in json.loads(self.stitch("get", "drops", "-o", "json", domain=domain))
        }

    def entries(self) -> dict[str, frozenset[bytes]]:
        """What the nodes with an agent have, read back from them by P4Runtime."""
        record = lab.find(self.lab)
        nodes = [node.name for node in lab.topology_of(record).nodes if node.name not in record.switches]
        return {node: entries_on(record, node) for node in nodes}
