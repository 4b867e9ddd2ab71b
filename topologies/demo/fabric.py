"""`./run demo fabric`: a fat tree of 20 switches, whose 12 inner ones are XDP, Open vSwitch or BMv2."""

import json
import re
import subprocess
import time

from topologies import lab, processes
from topologies.demo.run import Demo

WEB, WEB6 = "10.2.0.26", "2001:db8:2::26"
"""Of h16."""
SENTENCE = "isolate fabric/blue; allow fabric/green/web icmp tcp/80"
CLIENTS = ("h1", "h7", "h13")
"""Of fabric/blue, in three pods."""
PINGS, INTERVAL_S = 2000, 0.002
WAIT_S, READY_S_MAX = "60", 30.0


def run(demo: Demo) -> None:
    controlled(demo)
    baseline = demo.entries()
    demo.check("h1 does not reach h16", demo.ping("h1", WEB, 1) is None, "no answer")
    apply(demo)
    works(demo)
    entries(demo)
    move(demo)
    cut(demo)
    withdraw(demo, baseline)


def controlled(demo: Demo) -> None:
    demo.step("1. All switches are controlled")
    deadline = time.monotonic() + READY_S_MAX
    while (phases := [node["status"]["phase"] for node in demo.get("nodes")]) != ["Ready"] * 20:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    demo.check("20 nodes are Ready", phases == ["Ready"] * 20, ", ".join(sorted({*phases})))


def apply(demo: Demo) -> None:
    demo.step(f'2. stitch intent "{SENTENCE}"')
    started_s = time.monotonic()
    demo.stitch("intent", SENTENCE, "--name", "web", "--tenant", "blue", "--yes", "--wait", WAIT_S, timeout_s=90)
    demo.check("the intent is Active", True, f"after {time.monotonic() - started_s:.2f} s")


def works(demo: Demo) -> None:
    demo.step("3. Hosts of the network blue reach the service web, and nothing else of green")
    for host in CLIENTS:
        for address in (WEB, WEB6):
            seen = demo.ping(host, address, 3)
            demo.check(f"{host} reaches h16 at {address}", seen is not None, f"{seen} ms round trip")
    demo.check("h1 does not reach h14", demo.ping("h1", "10.2.0.24", 1) is None, "no answer")


def way(demo: Demo) -> list[str]:
    """Of h1's packets to the service."""
    return [hop["node"] for hop in json.loads(demo.stitch("trace", "h1", WEB, "-o", "json"))["hops"]]


def entries(demo: Demo) -> None:
    demo.step("4. Entries on every switch on the way, with whose they are")
    owners = {entry["metadata"]["name"]: entry["status"]["owner"] for entry in demo.get("entries")}
    for hop in json.loads(demo.stitch("trace", "h1", WEB, "-o", "json"))["hops"]:
        matched = [owners[step["entry"]] for step in hop["steps"] if step["entry"] in owners]
        demo.check(
            f"{hop['node']} has entries for it", bool(matched), f"{len(matched)}: {', '.join(sorted({*matched}))}"
        )


def move(demo: Demo) -> None:
    demo.step("5. The intent is moved to another core while packets pass")
    core = way(demo)[2]
    with Pings(demo) as lost:
        changed = f"{SENTENCE}; require avoid nodes {core}"
        demo.stitch("intent", changed, "--name", "web", "--tenant", "blue", "--yes", "--wait", WAIT_S, timeout_s=90)
    demo.check(f"h1's packets do not pass {core} any more", core not in way(demo), " > ".join(way(demo)))
    demo.check("no packet was lost", lost.count == 0, f"{lost.count} of {PINGS}, one each {INTERVAL_S * 1000:.0f} ms")


def cut(demo: Demo) -> None:
    demo.step("6. A link on the way is cut")
    nodes = way(demo)
    with Pings(demo) as lost:
        demo.stitch("lab", "link", nodes[1], nodes[2], "down")
    demo.check("packets pass again", demo.ping("h1", WEB, 3) is not None, f"{lost.count} of {PINGS} were lost")
    demo.stitch("lab", "link", nodes[1], nodes[2], "up")


def withdraw(demo: Demo, baseline: dict[str, frozenset[bytes]]) -> None:
    demo.step("7. stitch delete intent/web")
    demo.stitch("delete", "intent/web")
    demo.check("traffic stopped", demo.ping("h1", WEB, 1) is None, "no answer")
    deadline = time.monotonic() + 30
    while (now := demo.entries()) != baseline and time.monotonic() < deadline:
        time.sleep(0.2)
    demo.check("agents have the entries they had before", now == baseline, f"{sum(map(len, now.values()))} entries")


class Pings:
    """While it lasts, and until all of PINGS are sent, h1 pings the service."""

    def __init__(self, demo: Demo) -> None:
        self.count = -1
        """Of those that were not answered, at the end."""
        command = ("ping", "-q", "-c", str(PINGS), "-i", str(INTERVAL_S), WEB)
        self._process = subprocess.Popen(
            lab.command(lab.find(demo.lab), "h1", command),
            env=processes.environment(demo.lab),
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Pings":
        time.sleep(0.5)
        return self

    def __exit__(self, *raised: object) -> None:
        said, _ = self._process.communicate(timeout=120)
        if (sums := re.search(r"(\d+) packets transmitted, (\d+) received", said)) is not None:
            self.count = int(sums[1]) - int(sums[2])
