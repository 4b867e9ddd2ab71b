"""Traffic through the lab's firewall, which knows no SRv6: it counts and filters with nftables, and is cut."""

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

from tests.simulator import ORDER_PROCESSING
from topologies import lab
from topologies.record import LabRecord

pytestmark = pytest.mark.root

STITCH = Path(sys.executable).parent / "stitch"
NAME = f"test-via-{os.getpid()}"
AY1, AY1_6 = "10.2.0.10", "2001:db8:2::10"
BYTES = 200_000
FIREWALL = """
apiVersion: netstitch/v1
kind: Service
metadata: {name: shop/firewall/fw}
spec: {addresses: [10.1.9.2, "2001:db8:109::2"], ports: [icmp], in: fw1a, out: fw1b, tenants: ["*"]}
"""
VIA = ORDER_PROCESSING + "  via: [fw]\n"
BYPASS = VIA + "  on_service_down: bypass\n"
SERVE = f"""
import socket
family = socket.AF_INET6
with socket.create_server(("::", 443), family=family, dualstack_ipv6=True) as server:
    print("listening", flush=True)
    connection, _ = server.accept()
    got = 0
    while data := connection.recv(65536):
        got += len(data)
        if got == {BYTES}:
            connection.sendall(b"a" * {BYTES})
            break
    connection.close()
"""
ASK = f"""
import socket, sys
with socket.create_connection((sys.argv[1], 443), timeout=60) as connection:
    connection.sendall(b"q" * {BYTES})
    got = 0
    while data := connection.recv(65536):
        got += len(data)
    print(got)
"""


@pytest.fixture(scope="module")
def record() -> Iterator[LabRecord]:
    started = lab.up("three-domains", NAME, say=lambda _: None)
    try:
        stitch("apply", "-f", "-", text=FIREWALL)
        yield started
    finally:
        lab.down(NAME)


def stitch(*arguments: str, text: str = "") -> str:
    command = [str(STITCH), "--lab", NAME, "--domain", "shop", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S + 60, input=text)
    assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
    return done.stdout


def cable(direction: str) -> None:
    command = [str(STITCH), "--lab", NAME, "lab", "link", "fw1a", "se1", direction]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr


def status() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stitch("get", "intent", "order-processing", "-o", "json"))["status"]
    return found


def apply(manifest: str) -> None:
    stitch("apply", "-f", "-", "--wait", "300", text=manifest)


def answered(record: LabRecord, address: str, count: int) -> int:
    done = lab.execute(record, "cx1", "ping", "-c", str(count), "-i", "0.02", "-W", "1", "-q", address)
    summary = re.search(r"(\d+) received", done.stdout)
    assert summary is not None, (done.stdout, done.stderr)
    return int(summary[1])


def reaches(record: LabRecord, address: str = AY1) -> bool:
    return answered(record, address, 1) == 1


def counted(record: LabRecord, what: str = "packets") -> tuple[int, int]:
    """What fw1 has sent on, towards the destination and back. Packets of a transfer its kernel merges."""
    listing = lab.execute(record, "fw1", "nft", "list", "table", "inet", "firewall").stdout
    there, back = (int(count) for count in re.findall(rf"{what} (\d+)", listing))
    return there, back


def test_pings_and_large_transfers_pass_it_both_ways(record: LabRecord) -> None:
    apply(VIA)
    for address in (AY1, AY1_6):
        wait_for(lambda there=address: reaches(record, there), f"cx1 reaches {address}")
        before = counted(record)
        assert answered(record, address, 50) == 50
        there, back = (now - then for now, then in zip(counted(record), before, strict=True))
        assert there >= 50 and back >= 50, (there, back)
        before = counted(record, "bytes")
        serving = subprocess.Popen(
            lab.command(record, "ay1", (sys.executable, "-c", SERVE)), stdout=subprocess.PIPE, text=True
        )
        try:
            assert serving.stdout is not None and serving.stdout.readline() == "listening\n"
            asked = lab.execute(record, "cx1", sys.executable, "-c", ASK, address)
            assert asked.stdout == f"{BYTES}\n", asked.stderr
        finally:
            serving.terminate()
            serving.wait()
        assert all(now - then > BYTES for now, then in zip(counted(record, "bytes"), before, strict=True))
    assert status()["via"] == [{"service": "shop/firewall/fw", "node": "se1", "passed": True, "up": True}]
    trace = json.loads(stitch("trace", "shop/customer-x/cx1", "insight/analytics/analytics-y", "-o", "json"))
    assert "into service shop/firewall/fw" in trace["hops"][0]["result"]


def test_what_it_filters_arrives_nowhere(record: LabRecord) -> None:
    apply(VIA)
    wait_for(lambda: reaches(record), "cx1 reaches ay1")
    rule = ("ip", "daddr", AY1, "icmp", "type", "echo-request", "drop")
    lab.execute(record, "fw1", "nft", "insert", "rule", "inet", "firewall", "forward", *rule)
    try:
        assert answered(record, AY1, 20) == 0
        assert answered(record, AY1_6, 20) == 20
    finally:
        handles = lab.execute(record, "fw1", "nft", "-a", "list", "chain", "inet", "firewall", "forward").stdout
        handle = re.search(r"echo-request drop # handle (\d+)", handles)
        assert handle is not None, handles
        lab.execute(record, "fw1", "nft", "delete", "rule", "inet", "firewall", "forward", "handle", handle[1])
    assert answered(record, AY1, 20) == 20


def test_cut_off_it_stops_what_is_to_pass_it(record: LabRecord) -> None:
    apply(VIA)
    wait_for(lambda: reaches(record), "cx1 reaches ay1")
    cable("down")
    try:
        wait_for(lambda: status()["phase"] == "Unsatisfiable", "the intent stops")
        assert answered(record, AY1, 20) == 0
    finally:
        cable("up")
    wait_for(lambda: status()["phase"] == "Active", "the intent is in force again")
    wait_for(lambda: reaches(record), "cx1 reaches ay1 again")


def test_cut_off_it_is_passed_by_where_the_intent_says_so(record: LabRecord) -> None:
    apply(BYPASS)
    wait_for(lambda: reaches(record), "cx1 reaches ay1")
    cable("down")
    try:
        wait_for(lambda: status()["phase"] == "Degraded", "the intent goes without it")
        wait_for(lambda: reaches(record), "cx1 reaches ay1 without it")
        before = counted(record)
        assert answered(record, AY1, 50) == 50 and counted(record) == before
    finally:
        cable("up")
    wait_for(lambda: status()["phase"] == "Active", "the intent passes it again")
    before = counted(record)
    assert answered(record, AY1, 50) == 50
    assert all(now - then >= 50 for now, then in zip(counted(record), before, strict=True))
