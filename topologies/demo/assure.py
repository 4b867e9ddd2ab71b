"""`./run demo assure`: what goes wrong in the reference lab is seen, named and repaired.

Hosts talk to each other for a while, so that there is something usual. Then one scans, one floods, one leaks, a link
of the carrier becomes slow, loses packets, is cut. The table at the end is from what the controllers say of it.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from topologies import lab, links, processes
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
ROWS = REPORT / "assure-rows.jsonl"
"""Of all runs; summary.py counts them."""
USUAL_S = 150
"""Of usual traffic before anything happens: a model takes two minutes and a thousand records."""
FOUND_S = 60
"""So long is waited for an incident to be acted upon."""
DOMAINS = ("shop", "transit", "insight")
ORDERS, WEB, ANALYTICS = "10.1.0.11", "10.1.0.12", "10.2.0.10"
NORTH = ("t1", "tc1")
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
DOWNLOAD = (
    "import socket, sys, time\n"
    "with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as s:\n"
    "    while True:\n"
    "        s.sendall(bytes(20_000)); s.recv(65536); time.sleep(0.02)\n"
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
    "import socket, sys, threading, time\n"
    "s = socket.create_connection((sys.argv[1], 443)); end = time.time() + 120\n"
    "threading.Thread(target=lambda: [None for _ in iter(lambda: s.recv(65536), b'')], daemon=True).start()\n"
    "while time.time() < end: s.sendall(bytes(60_000)); time.sleep(0.1)\n"
)


class Trouble(NamedTuple):
    """What was made on purpose: any domain that it touches may have an incident of it."""

    cause: str
    about: str
    began_s: float


class Row(NamedTuple):
    """Of the table."""

    what: str
    detectors: str
    cause: str
    detect_s: str
    repair_s: str
    lost: str


def run(demo: Demo) -> None:
    """NETSTITCH_SEED: troubles come in an order that is drawn by it."""
    with contextlib.ExitStack() as running:
        prepare(demo, running)
        made: list[Trouble] = []
        troubles: list[Callable[[], Row]] = [
            partial(attack, demo, made, "scan of cx2 by cx1", "scan", f"sources/{ORDERS}", "cx1", SCAN, WEB),
            partial(attack, demo, made, "flood of cx1 by cx2", "flood", f"sources/{WEB}", "cx2", FLOOD, ORDERS),
            partial(
                attack, demo, made, "leak from cx2 to ay1", "exfiltration", f"sources/{WEB}", "cx2", LEAK, ANALYTICS
            ),
            partial(worse, demo, made, "15 ms more", "delay_shift", "delay=17"),
            partial(worse, demo, made, "5 % lost", "loss", "loss=5"),
            partial(cut, demo),
        ]
        if seed := os.environ.get("NETSTITCH_SEED"):
            random.Random(seed).shuffle(troubles)
        rows = [trouble() for trouble in troubles]
        alarms = false_alarms(made, [(domain, each) for domain in DOMAINS for each in incidents(demo, domain).values()])
    table(demo, rows, alarms)


def benign(demo: Demo) -> None:
    """`./run soak benign [MINUTES]`: usual traffic and nothing else: nothing is done, and hardly anything found."""
    minutes = float(os.environ.get("NETSTITCH_MINUTES", "30"))
    with contextlib.ExitStack() as running:
        prepare(demo, running)
        demo.step(f"2. {minutes:g} minutes of the same, with downloads by cx1, ten seconds in each minute")
        began_s, end = time.time(), time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            with program(demo, "cx1", DOWNLOAD, WEB, "8080"):
                time.sleep(10)
            time.sleep(50)
        there = [(domain, each) for domain in DOMAINS for each in incidents(demo, domain).values()]
        findings = [
            f"{domain}: {finding['spec']['text']}"
            for domain in DOMAINS
            for finding in demo.get("findings", domain)
            if finding["spec"]["at_s"] >= began_s
        ]
    for text in findings[:20]:
        demo.say(f"     {text}")
    demo.check("at most one finding", len(findings) <= 1, str(len(findings)))
    demo.check("no incident", not there, "; ".join(false_alarms([], there)) or "none")
    done = [each for _, each in there if any(moment["what"] == "done" for moment in each["status"]["timeline"])]
    demo.check("nothing is done", not done, str(len(done)))


def false_alarms(made: list[Trouble], there: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Incidents by domain that are not, with cause and place right, of what was made, or that are one more of it in the
    same domain."""
    alarms, counted = [], set[tuple[str, Trouble]]()
    for domain, incident in there:
        cause, about, began_s = incident["spec"]["cause"], incident["spec"]["about"], incident["status"]["began_s"]
        fitting = [each for each in made if (each.cause, each.about) == (cause, about) and began_s >= each.began_s]
        if not fitting or (domain, fitting[-1]) in counted:
            alarms.append(f"{domain}: incident {incident['metadata']['name']} ({cause} of {about})")
        else:
            counted.add((domain, fitting[-1]))
    return alarms


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
    seen = {domain: len(incidents(demo, domain)) for domain in DOMAINS}
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


def found(demo: Demo, domain: str, trouble: Trouble) -> dict[str, Any] | None:
    """The incident, once it is acted upon; or after FOUND_S as far as it is."""
    deadline, newest = time.monotonic() + FOUND_S, None
    while time.monotonic() < deadline:
        fitting = [
            each
            for each in incidents(demo, domain).values()
            if (each["spec"]["cause"], each["spec"]["about"]) == (trouble.cause, trouble.about)
            and each["status"]["seen_s"] >= trouble.began_s
        ]
        newest = fitting[-1] if fitting else None
        if newest is not None and newest["status"]["phase"] in ("Acted", "Closed"):
            return newest
        time.sleep(0.5)
    return newest


def attack(
    demo: Demo, made: list[Trouble], what: str, cause: str, about: str, host: str, script: str, target: str
) -> Row:
    demo.step(f"2. {what}")
    made.append(trouble := Trouble(cause, about, time.time()))
    with program(demo, host, script, target):
        incident = found(demo, "shop", trouble)
        row = told(demo, what, incident, trouble)
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


def worse(demo: Demo, made: list[Trouble], how: str, cause: str, change: str) -> Row:
    what = f"{how} on {'-'.join(NORTH)}"
    demo.step(f"3. {what}")
    with Pings(demo) as pings:
        set_link(demo, change)
        made.append(trouble := Trouble(cause, "links/" + "-".join(NORTH), time.time()))
        incident = found(demo, "transit", trouble)
    row = told(demo, what, incident, trouble)._replace(lost=f"{pings.lost} of {pings.sent}")
    set_link(demo, "delay=2" if change.startswith("delay") else "loss=0")
    if incident is not None:
        over = closed(demo, "transit", incident["metadata"]["name"])
        demo.check("the link is used again when it is well", over == "Closed", over)
    return row


def set_link(demo: Demo, change: str) -> None:
    record = lab.find(demo.lab)
    links.change(record, links.find(lab.topology_of(record), *NORTH), (change,))


def closed(demo: Demo, domain: str, name: str) -> str:
    """How an incident stands when it is over; or after three minutes."""
    deadline = time.monotonic() + 180
    while (phase := str(incidents(demo, domain)[name]["status"]["phase"])) != "Closed" and time.monotonic() < deadline:
        time.sleep(2)
    return phase


def told(demo: Demo, what: str, incident: dict[str, Any] | None, trouble: Trouble) -> Row:
    if incident is None:
        demo.check(f"{what} is found and named", False, "no such incident")
        return Row(what, "", "not found", "", "", "")
    began_s = trouble.began_s
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
    load = os.getloadavg()[0]
    with ROWS.open("a") as file:
        file.writelines(json.dumps(row._asdict() | {"false_alarms": alarms, "load": load}) + "\n" for row in rows)
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
