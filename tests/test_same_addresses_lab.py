"""An intent between two networks with the same addresses in the reference lab: real hosts, agents, XDP and tunnels."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import LIMIT_S, wait_for

from topologies import lab
from topologies.readback import entries_on
from topologies.record import LabRecord

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parent.parent
STITCH = Path(sys.executable).parent / "stitch"
NAME = f"test-same-{os.getpid()}"
ACCEPTED = (
    '{from: shop, source: shop/customer-x, to: "insight/archive*", ports: [tcp/9000, icmp], encryption: wireguard}'
)
INTENT = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: keep, tenant: customer-x}
spec:
  allow:
    - {from: {network: shop/customer-x, select: {app: order-processing}}, to: insight/archive/archive-z}
    - {from: {network: shop/customer-x, select: {app: order-processing}}, to: insight/archive, ports: [icmp]}
"""
THERE = {"10.1.0.10": "ipv4", "2001:db8:1::10": "ipv6"}
"""What the archive's host has itself: 10.1.0.0/24 is customer-x' too."""


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabRecord]:
    topology = tmp_path_factory.mktemp("lab") / "same-addresses.yaml"
    reference = (ROOT / "topologies/three-domains.yaml").read_text()
    accepts = '        - {from: shop, source: shop/customer-x, to: "insight/analytics/*"'
    assert accepts in reference
    topology.write_text(reference.replace(accepts, f"        - {ACCEPTED}\n{accepts}", 1))
    started = lab.up(str(topology), NAME, say=lambda _: None)
    yield started
    lab.down(NAME)


def stitch(*arguments: str, domain: str = "shop", text: str = "") -> str:
    command = [str(STITCH), "--lab", NAME, "--domain", domain, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S + 60, input=text)
    assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
    return done.stdout


def get(*what: str, domain: str = "shop") -> Any:
    return json.loads(stitch("get", *what, "-o", "json", domain=domain))


def pinged(record: LabRecord, host: str, address: str, *options: str) -> str:
    return lab.execute(record, host, "ping", "-c", "1", "-W", "1", *options, address).stdout


def reaches(record: LabRecord, host: str, address: str) -> bool:
    return "1 received" in pinged(record, host, address)


def read_back(record: LabRecord) -> dict[str, frozenset[bytes]]:
    return {node.name: entries_on(record, node.name) for node in lab.topology_of(record).nodes}


SERVER = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listening = socket.socket(family)
listening.bind((sys.argv[1], 9000))
listening.listen()
print("listening", flush=True)
while True:
    came, peer = listening.accept()
    asked = b""
    while not asked.endswith(b"\\r\\n\\r\\n"):
        asked += came.recv(4096)
    body = f"{peer[0]} asked {came.getsockname()[0]}".encode().ljust(40000)
    came.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: 40000\\r\\n\\r\\n" + body)
    came.close()
"""
CLIENT = """
import sys, urllib.request
host = f"[{sys.argv[1]}]" if ":" in sys.argv[1] else sys.argv[1]
print(urllib.request.urlopen(f"http://{host}:9000/", timeout=20).read().decode().strip())
"""


def test_an_intent_between_customer_x_and_the_archive_works_under_translated_addresses(record: LabRecord) -> None:
    before = read_back(record)
    wait_for(lambda: "insight/archive" in str(get("networks")), "the archive is advertised")
    stitch("apply", "-f", "-", "--wait", "300", text=INTENT)
    status = get("intent", "keep")["status"]
    service = "insight/archive/archive-z"
    known = {each["known_there_as"]: each["address"] for each in status["endpoints"] if each["service"] == service}
    assert known.keys() == THERE.keys(), status["endpoints"]
    assert known["10.1.0.10"].startswith("100.65.") and known["2001:db8:1::10"].startswith("2001:db8:65")

    for own, address in known.items():
        wait_for(lambda there=address: reaches(record, "cx1", there), f"cx1 pings {address}")
        server = subprocess.Popen(
            lab.command(record, "ar1", (sys.executable, "-c", SERVER, own)), stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None and server.stdout.readline() == "listening\n"
            done = lab.execute(record, "cx1", sys.executable, "-c", CLIENT, address)
            asker, asked = re.fullmatch(r"(\S+) asked (\S+)", done.stdout.strip()).groups()  # type: ignore[union-attr]
            assert asked == own, (done.stdout, done.stderr)
            assert asker.startswith("100.67." if ":" not in own else "2001:db8:67"), "a pool of insight's"
        finally:
            server.terminate()
            server.wait()

    ipv4 = known["10.1.0.10"]
    assert not reaches(record, "cx2", ipv4) and not reaches(record, "cz1", ipv4)
    assert reaches(record, "cx1", "10.1.0.12"), "its own network is as it was"
    said = pinged(record, "cx1", ipv4, "-M", "do", "-s", "1472")
    assert "Message too long" in said or "Frag needed" in said or "message too long" in said, said
    flows = [row for row in get("flows") if row.get("intent") == "keep"]
    assert {row["destination_address"] for row in flows if row["node"] == "se1"} <= {*known.values()}
    explained = stitch("explain", "intent/keep")
    assert "shop/customer-x knows insight/archive under other addresses: 10.1.0.0/24 as 100.65.0.0/24" in explained
    assert "insight/archive knows shop/customer-x under other addresses: 10.1.0.0/24 as 100.67.0.0/24" in explained
    traced = stitch("trace", "cx1", "archive-z")
    assert f"-> {ipv4}" in traced and "delivered to insight/archive/ar1" in traced, traced

    stitch("delete", "intent/keep")
    wait_for(lambda: not reaches(record, "cx1", ipv4), "traffic stops")
    wait_for(lambda: read_back(record) == before, "entries are as before")
    (own_domain,) = [domain for domain in get("domains") if domain["metadata"]["name"] == "shop"]
    assert all("rests_until_s" in each for each in own_domain["status"]["translations"])


def test_two_networks_of_one_domain_with_the_same_addresses_reach_each_other(record: LabRecord) -> None:
    """cx1 and cz1 are 10.1.0.11 both, at the same edge."""
    service = """
apiVersion: netstitch/v1
kind: Service
metadata: {name: shop/customer-z/web}
spec: {addresses: [10.1.0.11, "2001:db8:1::11"], ports: [tcp/9000, icmp]}
---
apiVersion: netstitch/v1
kind: Intent
metadata: {name: next-door, tenant: customer-x}
spec:
  allow: [{from: {network: shop/customer-x, select: {app: order-processing}}, to: shop/customer-z/web}]
"""
    stitch("apply", "-f", "-", "--wait", "300", text=service)
    for endpoint in get("intent", "next-door")["status"]["endpoints"]:
        address = endpoint["address"]
        wait_for(lambda there=address: reaches(record, "cx1", there), f"cx1 pings {address}")
        server = subprocess.Popen(
            lab.command(record, "cz1", (sys.executable, "-c", SERVER, endpoint["known_there_as"])),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None and server.stdout.readline() == "listening\n"
            done = lab.execute(record, "cx1", sys.executable, "-c", CLIENT, address)
            assert f"asked {endpoint['known_there_as']}" in done.stdout, (done.stdout, done.stderr)
        finally:
            server.terminate()
            server.wait()
    stitch("delete", "intent/next-door")
