"""Many intents in the reference lab in one request: real agents, P4Runtime, controllers that agree over real borders.

A process of its own: `python -m bench.lab_many INTENTS`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.lab import ROOT, STITCH, stitch
from bench.report import Row, row

INTENTS = 2000
WAIT_S = 300
TOPOLOGY = ROOT / "topologies/three-domains.yaml"
ACCEPTED = 'to: "insight/analytics/*", ports: [tcp/443, icmp], '
"""What insight takes of shop; here it takes all that is for its network."""
MANIFEST = """
apiVersion: netstitch/v1
kind: Intent
metadata: {{name: many-{}, tenant: customer-x}}
spec:
  allow:
    - {{from: {{network: shop/customer-x, select: {{app: {}}}}}, to: insight/analytics, ports: [{}]}}
---
"""


def rows() -> list[Row]:
    return [row("scale.lab_2k_s", measure(INTENTS), f"s, {INTENTS} intents", better="lower", target=10)]


def measure(intents: int) -> float:
    """From the start of the command to all Active, as the client waits for it; then the first and the last are tried.
    Each intent is about a port of its own."""
    name = f"bench-many-{os.getpid()}"
    text = TOPOLOGY.read_text()
    if ACCEPTED not in text:
        raise RuntimeError(f"{TOPOLOGY} has no rule with {ACCEPTED}")
    with tempfile.TemporaryDirectory() as directory:
        topology, manifests = Path(directory) / "lab.yaml", Path(directory) / "intents.yaml"
        topology.write_text(text.replace(ACCEPTED, 'to: "insight/*", '))
        manifests.write_text("".join(_manifests(intents)))
        stitch("lab", "up", str(topology), "--lab", name)
        try:
            began_s = time.monotonic()
            _apply(name, manifests)
            active_s = time.monotonic() - began_s
            hosts = json.loads(stitch("lab", "status", "-o", "json", "--lab", name))["hosts"]
            for host in ("cx1", "cx2"):
                _ping(hosts[host]["namespace"])
            return active_s
        finally:
            stitch("lab", "down", "--lab", name)


def _manifests(intents: int) -> list[str]:
    ports = [f"tcp/{1000 + number}" for number in range(intents - 2)]
    first, last = MANIFEST.format(0, "order-processing", "icmp"), MANIFEST.format(intents - 1, "web", "icmp")
    return [first, *(MANIFEST.format(number, "web", port) for number, port in enumerate(ports, 1)), last]


def _apply(name: str, manifests: Path) -> None:
    command = [STITCH, "--lab", name, "--domain", "shop", "apply", "-f", str(manifests), "--wait", str(WAIT_S)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2 * WAIT_S)
    if done.returncode != 0:
        raise RuntimeError(f"stitch apply (exit {done.returncode}): {done.stderr[-2000:]}")


def _ping(namespace: str) -> None:
    command = ["nsenter", f"--net={namespace}", "ping", "-c", "3", "-i", "0.2", "-w", "5", "10.2.0.10"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    if done.returncode != 0:
        raise RuntimeError(f"no answer: {done.stdout}")


if __name__ == "__main__":
    print(f"{measure(int(sys.argv[1])):.1f} s")
