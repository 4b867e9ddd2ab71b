"""Keys of tunnels that are renewed in the reference lab, under 1,000 packets a second: what is lost.

Each of the two borders that the traffic crosses has its keys renewed as often as controllers can (every second, or as
soon as the renewal before is over), until there were 200 on both together. In the middle the agent of t1, the neighbour
of who begins, is killed and started again.
"""

import json
import os
import signal
import time
from typing import Any

from bench.lab import INTENT, stitch
from bench.liveness import loaded
from bench.report import Row, row
from topologies.record import directory_of

RENEWALS = 200
LIMIT_S = 1800.0
BORDERS = (("shop", "sg1/sg1-t1"), ("insight", "ig1/t2-ig1"))
"""With the domain that begins."""


def rows() -> list[Row]:
    name = f"bench-{os.getpid()}"
    stitch("lab", "up", "topologies/three-domains.yaml", "--lab", name)
    try:
        status = json.loads(stitch("lab", "status", "-o", "json", "--lab", name))
        stitch("--lab", name, "--domain", "shop", "apply", "-f", INTENT, "--wait", "50")
        _wait_for_epochs(name, 2)
        with loaded(status) as load:
            before = sum(_epochs(name))
            for domain, _ in BORDERS:
                policy = directory_of(name) / domain / "policy.yaml"
                policy.write_text(policy.read_text() + "tunnels: {renew_keys_s: 1}\n")
                stitch("--lab", name, "--domain", domain, "policy", "reload")
            begin_s = time.monotonic()
            _wait_for_epochs(name, before + RENEWALS // 2)
            os.kill(status["nodes"]["t1"]["pid"], signal.SIGKILL)
            load.answered(1000)
            stitch("lab", "restart", "t1", "--lab", name)
            _wait_for_epochs(name, before + RENEWALS)
            took_s = time.monotonic() - begin_s
        lost = load.lost()
        return [
            row("know.rotation_lost", lost, "packets", better="lower", target=0),
            row("know.rotation_s", took_s / RENEWALS, "s", better="lower"),
        ]
    finally:
        stitch("lab", "down", "--lab", name)


def _wait_for_epochs(name: str, sum_of_epochs: int) -> None:
    late_s = time.monotonic() + LIMIT_S
    while sum(_epochs(name)) < sum_of_epochs:
        if time.monotonic() > late_s:
            raise RuntimeError(f"keys are at {_epochs(name)} after {LIMIT_S} s")
        time.sleep(1.0)


def _epochs(name: str) -> list[int]:
    """In use at each border: 1 more with each renewal."""
    found = []
    for domain, tunnel in BORDERS:
        tunnels: list[dict[str, Any]] = json.loads(
            stitch("--lab", name, "--domain", domain, "get", "tunnels", "-o", "json")
        )
        found += [each["status"].get("epoch", 0) for each in tunnels if each["metadata"]["name"] == tunnel]
    return found
