"""`./run demo assure`: what goes wrong in the reference lab is seen, named and repaired.

Hosts talk to each other for a while, so that there is something usual. Then one scans, one floods, one leaks, a link
of the carrier becomes slow, loses packets, is cut. The table at the end is from what the controllers say of it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from topologies import lab, processes
from topologies.demo.run import REPORT, Demo
from topologies.record import directory_of

INTENT = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: analytics, tenant: customer-x}
spec:
  allow: [{from: shop/customer-x, to: insight/analytics/analytics-y, ports: [tcp/443, icmp]}]
  require: {encryption: wireguard}
  remediation: auto
"""
USUAL_S = 150
"""Of usual traffic before anything happens: a model takes two minutes and a thousand records."""
FOUND_S = 60
"""So long is waited for an incident to be acted upon."""
ORDERS, WEB, ANALYTICS = "10.1.0.11", "10.1.0.12", "10.2.0.10"
NORTH, SOUTH = ("t1", "tc1"), ("t1", "tc2")
"""The link of the carrier that paths take."""

SERVE = (
    "import socketserver, sys\n"
    "class Sink(socketserver.BaseRequestHandler):\n"
    "    def handle(self):\n"
    "        while self.request.recv(65536): self.request.sendall(b'ok' * 100)\n"
    "class Server(socketserver.ThreadingTCPServer):\n"
    "    allow_reuse_address = True; daemon_threads = True\n"
    "Server(('0.0.0.0', int(sys.argv[1])), Sink).serve_forever()\n"
)
TALK = (
    "import random, socket, sys, time\n"
    "while True:\n"
    "    try:\n"
    "        with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2) as s:\n"
    "            for _ in range(random.randint(1, 4)):\n"
    "                s.sendall(bytes(random.randint(100, 1200))); s.recv(65536); time.sleep(random.random() / 5)\n"
    "    except OSError: pass\n"
    "    time.sleep(random.random() / 4)\n"
)
SCAN = (
    "import socket, sys, time\n"
    "for port in range(1, 4000):\n"
    "    s = socket.socket(); s.setblocking(False); s.connect_ex((sys.argv[1], port)); time.sleep(0.02); s.close()\n"
)
FLOOD = (
    "import socket, sys, time\n"
    "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); end = time.time() + 120\n"
    "while time.time() < end:\n"
    "    for _ in range(40):\n"
    "        try: s.sendto(bytes(64), (sys.argv[1], 9))\n"
    "        except OSError: pass\n"
    "    time.sleep(0.01)\n"
)
LEAK = (
    "import socket, sys, time\n"
    "s = socket.create_connection((sys.argv[1], 443)); end = time.time() + 120\n"
    "while time.time() < end: s.sendall(bytes(60_000)); time.sleep(0.1)\n"
)


class Row(NamedTuple):
    """Of the table."""

    what: str
    detectors: str
    cause: str
    detect_s: str
    repair_s: str
    lost: str


def run(demo: Demo) -> None:
    with contextlib.ExitStack() as running:
        prepare(demo, running)
        known: set[tuple[str, str]] = set()
        rows = [
            attack(demo, known, "scan of cx2 by cx1", "scan", f"sources/{ORDERS}", "cx1", SCAN, WEB),
            attack(demo, known, "flood of cx1 by cx2", "flood", f"sources/{WEB}", "cx2", FLOOD, ORDERS),
            attack(demo, known, "leak from cx2 to ay1", "exfiltration", f"sources/{WEB}", "cx2", LEAK, ANALYTICS),
            worse(demo, known, NORTH, "15 ms more", "delay_shift", "delay=17"),
            worse(demo, known, SOUTH, "5 % lost", "loss", "loss=5"),
            cut(demo),
        ]
        alarms = [
            f"{domain}: incident {name} ({incident['spec']['cause']} of {incident['spec']['about']})"
            for domain in ("shop", "transit", "insight")
            for name, incident in incidents(demo, domain).items()
            if (domain, name) not in known
        ]
    table(demo, rows, alarms)


def prepare(demo: Demo, running: contextlib.ExitStack) -> None:
    demo.step("1. An intent whose incidents the controller may act upon, and usual traffic")
    record = lab.find(demo.lab)
    policy = directory_of(record.lab) / "transit" / "policy.yaml"
    policy.write_text(policy.read_text() + "remediation: auto\n")
    demo.stitch("policy", "reload", domain="transit")
    file = REPORT / "assure-intent.yaml"
    file.write_text(INTENT)
    demo.stitch("apply", "-f", str(file), "--wait", "60", timeout_s=90)
    for host, port in (("ay1", "443"), ("cx1", "8080"), ("cx2", "8080")):
        running.enter_context(program(demo, host, SERVE, port))
    time.sleep(1.0)
    for host, address, port in (
        *[("cx1", ANALYTICS, "443")] * 4,
        *[("cx1", WEB, "8080")] * 3,
        *[("cx2", ORDERS, "8080")] * 3,
    ):
        running.enter_context(program(demo, host, TALK, address, port))
    demo.check("cx1 reaches ay1", demo.ping("cx1", ANALYTICS) is not None, "there is an answer")
    time.sleep(USUAL_S)
    seen = {domain: len(incidents(demo, domain)) for domain in ("shop", "transit", "insight")}
    demo.check(f"no incident in {USUAL_S} s of usual traffic", not sum(seen.values()), str(seen))


@contextlib.contextmanager
def program(demo: Demo, host: str, script: str, *arguments: str) -> Iterator[None]:
    # What connections that are cut off make of these programs is what is meant to happen.
    command = lab.command(lab.find(demo.lab), host, (sys.executable, "-c", script, *arguments))
    process = subprocess.Popen(command, env=processes.environment(demo.lab), stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def incidents(demo: Demo, domain: str) -> dict[str, dict[str, Any]]:
    return {incident["metadata"]["name"]: incident for incident in demo.get("incidents", domain)}


def found(demo: Demo, domain: str, cause: str, about: str, since_s: float) -> dict[str, Any] | None:
    """The incident, once it is acted upon; or after FOUND_S as far as it is."""
    deadline, newest = time.monotonic() + FOUND_S, None
    while time.monotonic() < deadline:
        fitting = [
            each
            for each in incidents(demo, domain).values()
            if (each["spec"]["cause"], each["spec"]["about"]) == (cause, about) and each["status"]["seen_s"] >= since_s
        ]
        newest = fitting[-1] if fitting else None
        if newest is not None and newest["status"]["phase"] in ("Acted", "Closed"):
            return newest
        time.sleep(0.5)
    return newest


def attack(
    demo: Demo, known: set[tuple[str, str]], what: str, cause: str, about: str, host: str, script: str, target: str
) -> Row:
    demo.step(f"2. {what}")
    began_s = time.time()
    with program(demo, host, script, target):
        incident = found(demo, "shop", cause, about, began_s)
        row = told(demo, known, "shop", what, incident, began_s)
        if incident is not None and incident["status"]["phase"] == "Proposed":
            demo.say(f"     held: {incident['status'].get('held', '')}; approved by hand")
            demo.stitch("incident", "approve", incident["metadata"]["name"])
    if incident is not None:
        closed(demo, "shop", incident["metadata"]["name"])
        demo.stitch("delete", f"intent/quarantine-{incident['metadata']['name']}", check=False)
    demo.check(f"{host} talks again when it is over", reaches(demo, host), "there is an answer")
    return row


def reaches(demo: Demo, host: str) -> bool:
    deadline = time.monotonic() + 20
    while demo.ping(host, ANALYTICS, 1) is None:
        if time.monotonic() > deadline:
            return False
    return True


def worse(demo: Demo, known: set[tuple[str, str]], link: tuple[str, str], trouble: str, cause: str, change: str) -> Row:
    """What comes back on a link soon is the same incident: so each trouble has a link of its own."""
    what = f"{trouble} on {'-'.join(link)}"
    demo.step(f"3. {what}")
    about = "links/" + "-".join(link)
    with Pings(demo) as pings:
        began_s = time.time()
        demo.stitch("lab", "link", *link, "set", change)
        incident = found(demo, "transit", cause, about, began_s)
    row = told(demo, known, "transit", what, incident, began_s)._replace(lost=f"{pings.lost} of {pings.sent}")
    demo.stitch("lab", "link", *link, "set", "delay=2" if change.startswith("delay") else "loss=0")
    if incident is not None:
        over = closed(demo, "transit", incident["metadata"]["name"])
        demo.check("the link is used again when it is well", over == "Closed", over)
    return row


def closed(demo: Demo, domain: str, name: str) -> str:
    """How an incident stands when it is over; or after three minutes."""
    deadline = time.monotonic() + 180
    while (phase := str(incidents(demo, domain)[name]["status"]["phase"])) != "Closed" and time.monotonic() < deadline:
        time.sleep(2)
    return phase


def told(
    demo: Demo, known: set[tuple[str, str]], domain: str, what: str, incident: dict[str, Any] | None, began_s: float
) -> Row:
    if incident is None:
        demo.check(f"{what} is found and named", False, "no such incident")
        return Row(what, "", "not found", "", "", "")
    known.add((domain, incident["metadata"]["name"]))
    status, moments = incident["status"], incident["status"]["timeline"]
    seen_s = next(moment["at_s"] for moment in moments if moment["at_s"] >= began_s)
    done = [moment["at_s"] for moment in moments if moment["what"] == "done" and moment["at_s"] >= began_s]
    for moment in moments:
        demo.say(f"     {moment['at_s'] - began_s:6.1f} s  {moment['what']}: {moment['text'][:110]}")
    demo.check(f"{what} is found and named", True, f"{incident['spec']['cause']} of {incident['spec']['about']}")
    demo.check("it is acted upon", bool(done), status.get("held") or status["phase"])
    repaired = f"{done[0] - began_s:.1f}" if done else "held"
    return Row(what, ", ".join(status["detectors"]), incident["spec"]["cause"], f"{seen_s - began_s:.1f}", repaired, "")


def cut(demo: Demo) -> Row:
    demo.step("4. The link is cut")
    with Pings(demo) as pings:
        demo.stitch("lab", "link", *NORTH, "down")
        time.sleep(5)
    demo.stitch("lab", "link", *NORTH, "up")
    demo.check("packets pass on the other candidate path", pings.sent - pings.lost > 100, f"{pings.lost} lost")
    return Row("t1-tc1 is cut", "probes, carrier", "", "at once", "at once", f"{pings.lost} of {pings.sent}")


def table(demo: Demo, rows: list[Row], alarms: list[str]) -> None:
    demo.step("5. What was seen")
    demo.say("| what | detectors | cause | s to detect | s to repair | packets lost |")
    demo.say("|---|---|---|---|---|---|")
    for row in rows:
        demo.say(f"| {' | '.join(row)} |")
    demo.check("no false alarms", not alarms, "; ".join(alarms) or "none")


class Pings:
    """While it lasts cx1 pings ay1 a hundred times a second."""

    def __init__(self, demo: Demo) -> None:
        self._command = lab.command(lab.find(demo.lab), "cx1", ("ping", "-q", "-i", "0.01", ANALYTICS))
        self._environment = processes.environment(demo.lab)
        self.sent = self.lost = 0

    def __enter__(self) -> "Pings":
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        time.sleep(1.0)
        return self

    def __exit__(self, *raised: object) -> None:
        os.killpg(self._process.pid, signal.SIGINT)
        said, _ = self._process.communicate(timeout=30)
        for line in said.splitlines():
            words = line.split()
            if "transmitted," in words:
                self.sent = int(words[0])
                self.lost = self.sent - int(words[words.index("received,") - 1])
