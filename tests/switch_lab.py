"""The lab `switches`, whose inner nodes run no agent: an intent from a1 to b1 crosses them."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from waiting import LIMIT_S, wait_for

from topologies import lab
from topologies.record import LabRecord, directory_of

STITCH = Path(sys.executable).parent / "stitch"
SWITCHES = ("s1", "s2", "s3")
B1, B1_6 = "10.2.0.10", "2001:db8:2::10"
LINKS = {"e1-s1", "s1-s2", "s2-e2", "e1-s3", "s3-e2"}
INTENT = "isolate campus/desks; allow campus/servers/files tcp/80 icmp"


class SwitchLab:
    def __init__(self, record: LabRecord) -> None:
        self.record = record
        self.log = directory_of(record.lab) / "campus.log"

    def stitch(self, *arguments: str) -> str:
        command = [str(STITCH), "--lab", self.record.lab, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S + 60)
        assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def received(self, address: str, count: int = 1) -> int:
        """Answers to pings of a1."""
        done = lab.execute(self.record, "a1", "ping", "-c", str(count), "-i", "0.02", "-W", "1", "-q", address)
        summary = re.search(r"(\d+) received", done.stdout)
        assert summary is not None, (done.stdout, done.stderr)
        return int(summary[1])

    def path(self) -> list[str]:
        nodes: list[str] = json.loads(self.stitch("get", "intents", "files", "-o", "json"))["status"]["path"]
        return nodes

    def await_links(self) -> None:
        """Until all are heard by LLDP."""

        def confirmed() -> set[str]:
            listed = json.loads(self.stitch("get", "links", "-o", "json"))
            return {link["metadata"]["name"] for link in listed if link["status"].get("discovery") == "confirmed"}

        wait_for(lambda: confirmed() == LINKS, "all links are confirmed")

    def restart_controller(self) -> dict[str, str]:
        """How much it wrote to the switches then."""
        seen = len(self.log.read_text())
        lab.restart(self.record.lab, "campus")

        def writes() -> dict[str, str]:
            events = (json.loads(line) for line in self.log.read_text()[seen:].splitlines() if line.startswith("{"))
            return {event["node"]: event["writes"] for event in events if event["event"] == "node_synced"}

        wait_for(lambda: {*SWITCHES} <= writes().keys(), "all switches are in sync")
        return {switch: writes()[switch] for switch in SWITCHES}


@contextmanager
def switch_lab(topology: str, name: str) -> Iterator[SwitchLab]:
    """With the intent in force."""
    try:
        campus = SwitchLab(lab.up(topology, name, say=lambda _: None))
        campus.stitch("intent", INTENT, "--name", "files", "--tenant", "desks", "--yes", "--wait", str(LIMIT_S))
        yield campus
    finally:
        lab.down(name)
