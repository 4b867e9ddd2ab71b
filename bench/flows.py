"""A node that has seen 130,000 flows, asked for them again and again: does the controller go on serving others?

Its cache has as many places, in buckets of four: what finds its bucket full displaces another, and some 106,000 are
there in the end.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from bench.report import Row, row
from dataplane.host_api import READ_FLOWS, FlowQuery, decode, encode
from topologies.record import directory_of

FLOWS_OF_A_CPU = 65_000
FROM_TO = "10.1.0.11", "10.1.0.12"
ASKERS, SECONDS = 4, 10.0
FILL = """
import os, socket, struct, sys
cpu, source, destination, count = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
os.sched_setaffinity(0, {cpu})
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as link:
    link.bind((source, 0))
    for number in range(count):
        ports = 1024 + number % 60_000, 5000 + 2 * (number // 60_000) + cpu
        link.sendto(struct.pack("!HHHH", *ports, 8, 0), (destination, 0))
"""


def rows(name: str, status: dict[str, Any]) -> list[Row]:
    """Hosts of one network talk to each other: no intent of isolation is there."""
    domain, inside = status["domains"]["shop"], ("nsenter", f"--net={status['hosts']['cx1']['namespace']}")
    for _ in range(2):  # the first packets of all find no MAC
        filling = [
            subprocess.Popen([*inside, sys.executable, "-c", FILL, str(cpu), *FROM_TO, str(FLOWS_OF_A_CPU)])
            for cpu in sorted(os.sched_getaffinity(0))[:2]
        ]
        for process in filling:
            if process.wait(timeout=120) != 0:
                raise RuntimeError("the flows could not be sent")
    there = flows_at(directory_of(name) / "se1" / "agent.sock")
    idle_s = [took_s for took_s, _ in itertools.islice(answers(domain, "intents"), 50)]
    asked: list[float] = []
    with asking(domain, asked):
        busy_s, until_s = [], time.monotonic() + SECONDS
        while time.monotonic() < until_s:
            (took_s, nodes) = next(answers(domain, "nodes"))
            busy_s.append(took_s)
            if not all(node["status"]["phase"] == "Ready" for node in nodes):
                raise RuntimeError(f"nodes count as unreachable meanwhile: {nodes}")
            time.sleep(0.02)
    return [
        row("main.flows_of_a_node", there, "flows", better="higher", target=100_000),
        row("main.flows_answer_s", statistics.median(asked), "s", better="lower"),
        row("main.flows_others_ms", statistics.median(busy_s) * 1e3, "ms", better="lower", target=100),
        row("main.flows_others_idle_ms", statistics.median(idle_s) * 1e3, "ms", better="lower"),
    ]


def flows_at(agent: Path) -> int:
    with grpc.insecure_channel(f"unix:{agent}", options=[("grpc.max_receive_message_length", 1 << 28)]) as channel:
        data = channel.unary_unary(READ_FLOWS.path)(encode(FlowQuery(forwarding_class=-1, limit=1 << 18)), timeout=60)
        return len(decode(data, READ_FLOWS.answer).flows)


def answers(domain: dict[str, Any], path: str) -> Iterator[tuple[float, Any]]:
    """How long each took."""
    token = Path(domain["token_file"]).read_text().strip()
    request = urllib.request.Request(f"{domain['server']}/v1/{path}", headers={"authorization": f"Bearer {token}"})
    while True:
        began_s = time.monotonic()
        with urllib.request.urlopen(request, timeout=120) as answer:
            data = answer.read()
        yield time.monotonic() - began_s, json.loads(data)


@contextmanager
def asking(domain: dict[str, Any], took: list[float]) -> Iterator[None]:
    """Several ask for all flows, all the time."""
    done = threading.Event()

    def ask() -> None:
        for took_s, flows in answers(domain, "flows"):
            assert flows
            took.append(took_s)
            if done.is_set():
                return

    threads = [threading.Thread(target=ask) for _ in range(ASKERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for asker in threads:
            asker.join()
