"""One network behind several edges in a lab: real agents, XDP and hosts; ARP and ND as the hosts' kernels do them."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet6 import IPv6, IPv6ExtHdrSegmentRouting
from scapy.utils import rdpcap
from waiting import LIMIT_S, wait_for

from topologies import lab
from topologies.record import LabRecord

pytestmark = pytest.mark.root

STITCH = Path(sys.executable).parent / "stitch"
NAME = f"test-edges-{os.getpid()}"
TOPOLOGY = Path(__file__).with_name("several-edges.yaml")
A1, A2, B1, C1 = "10.1.0.11", "10.1.0.12", "10.1.0.21", "10.1.0.31"
A1_6, B1_6, C1_6 = "2001:db8:1::11", "2001:db8:1::21", "2001:db8:1::31"
PAYROLL = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: payroll, tenant: campus}
spec: {isolate: {network: campus/office, select: {app: payroll}}}
"""


@pytest.fixture(scope="module")
def record() -> Iterator[LabRecord]:
    started = lab.up(str(TOPOLOGY), NAME, say=lambda _: None)
    yield started
    lab.down(NAME)


STITCH_LAB = (str(STITCH), "--lab", NAME, "lab")


def stitch(*arguments: str, text: str = "") -> str:
    command = [str(STITCH), "--lab", NAME, "--domain", "campus", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S + 60, input=text)
    assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
    return done.stdout


def received(record: LabRecord, host: str, address: str, count: int, *options: str) -> int:
    done = lab.execute(record, host, "ping", "-c", str(count), "-i", "0.02", "-W", "1", "-q", *options, address)
    summary = re.search(r"(\d+) received", done.stdout)
    assert summary is not None, (host, address, done.stdout, done.stderr)
    return int(summary[1])


def wait_until_reached(record: LabRecord, host: str, address: str) -> None:
    wait_for(lambda: received(record, host, address, 1) == 1, f"{host} reaches {address}")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("a1", B1),
        ("b1", A1),
        ("a1", B1_6),
        ("b1", A1_6),
        ("a2", C1),
        ("c1", B1),
        ("b1", C1_6),
        ("x1", B1),
        ("x2", A1_6),
    ],
)
def test_hosts_behind_different_edges_reach_each_other(record: LabRecord, host: str, address: str) -> None:
    wait_until_reached(record, host, address)
    assert received(record, host, address, 50) == 50


def test_between_edges_it_is_srv6_by_the_first_candidate_path(record: LabRecord, tmp_path: Path) -> None:
    wait_until_reached(record, "a1", B1)
    files = {other: tmp_path / f"e1-{other}.pcap" for other in ("t1", "t2")}
    ping = subprocess.Popen(lab.command(record, "a1", ("ping", "-i", "0.05", "-q", B1)))
    try:
        captures = [
            subprocess.Popen(
                [*STITCH_LAB, "capture", "e1", other, "--count", "400", "--seconds", "60", "-w", str(file)]
            )
            for other, file in files.items()
        ]
        assert [capture.wait() for capture in captures] == [0, 0]
    finally:
        ping.terminate()
        ping.wait()
    # both are probed at the same pace; what hosts send is IPv4 inside
    frames = [frame for frame in rdpcap(str(files["t1"])) if IPv6 in frame and frame[IPv6].nh == socket.IPPROTO_IPIP]
    assert len(frames) >= 15 and {frame[IPv6].src for frame in frames} == {"5f00:1:1::", "5f00:1:2::"}
    beside = [frame for frame in rdpcap(str(files["t2"])) if IPv6 in frame]
    assert beside and not any(frame[IPv6].nh == socket.IPPROTO_IPIP for frame in beside)
    assert not any(IPv6ExtHdrSegmentRouting in frame for frame in frames), "one container needs no list"
    there = next(frame for frame in frames if frame[IPv6].src == "5f00:1:1::")
    assert there[IPv6].dst.startswith("5f00:1:11:2:e"), "t1, e2 and the network's function there"
    assert there[IPv6].tc == 0
    trace = json.loads(stitch("trace", "campus/office/a1", B1, "-o", "json"))
    assert [hop["node"] for hop in trace["hops"]] == ["e1", "t1", "e2"]


def test_edges_answer_for_hosts_behind_other_edges_with_their_own_mac(record: LabRecord) -> None:
    for address in (B1, B1_6):
        wait_until_reached(record, "a1", address)
        own = lab.execute(record, "e1", "cat", "/sys/class/net/a1/address").stdout.strip()
        assert own in lab.execute(record, "a1", "ip", "neigh", "show", address).stdout


@pytest.mark.parametrize("taken", ["2001:db8:1::1", B1_6])
def test_an_address_of_the_gateway_or_behind_another_edge_is_found_to_be_taken(record: LabRecord, taken: str) -> None:
    lab.execute(record, "a1", "ip", "address", "add", f"{taken}/64", "dev", "eth0")
    try:
        wait_for(lambda: "dadfailed" in lab.execute(record, "a1", "ip", "-o", "address", "show", "to", taken).stdout)
    finally:
        lab.execute(record, "a1", "ip", "address", "del", f"{taken}/64", "dev", "eth0")


def test_networks_with_the_same_addresses_stay_apart(record: LabRecord) -> None:
    wait_until_reached(record, "x1", B1)
    assert received(record, "x1", C1, 3) == received(record, "x1", A2, 3) == 0
    rule = "table ip seen { chain arriving { type filter hook input priority 0; icmp type echo-request counter; }; }"
    lab.execute(record, "b1", "nft", rule)
    assert received(record, "x1", B1, 10) == 10
    assert "packets 0 bytes 0" in lab.execute(record, "b1", "nft", "list", "table", "ip", "seen").stdout
    assert received(record, "a1", B1, 10) == 10
    assert "packets 10 bytes" in lab.execute(record, "b1", "nft", "list", "table", "ip", "seen").stdout


def test_isolation_holds_between_edges_and_spares_those_isolated_together(record: LabRecord) -> None:
    for host, address in (("b1", C1), ("c1", A1), ("a2", C1)):
        wait_until_reached(record, host, address)
    stitch("apply", "-f", "-", "--wait", "300", text=PAYROLL)
    try:
        for host, address in (("b1", C1), ("c1", A1), ("a1", C1_6), ("c1", B1_6), ("b1", A2)):
            assert received(record, host, address, 3) == 0, (host, address)
        assert received(record, "a2", C1, 50) == 50
        assert received(record, "a1", B1, 50) == 50
    finally:
        stitch("delete", "intent/payroll")
    wait_until_reached(record, "b1", C1)


@pytest.mark.parametrize(
    ("host", "address", "towards"), [("a1", B1, "e2"), ("b1", A1, "e1"), ("a1", B1_6, "e2"), ("b1", A1_6, "e1")]
)
def test_a_sender_is_told_of_a_port_in_the_middle_that_became_small(
    record: LabRecord, host: str, address: str, towards: str
) -> None:
    """One container takes 40 octets, of which only the node in the middle knows that there is no room for them."""
    wait_until_reached(record, host, address)
    large = ("-s", "1420", "-M", "do")
    assert received(record, host, address, 3, *large) == 3
    family = "-6" if ":" in address else "-4"
    lab.execute(record, "t1", "ip", "link", "set", towards, "mtu", "1400")
    try:
        wait_for(
            lambda: (
                received(record, host, address, 1, *large) == 0
                and "mtu 1360" in lab.execute(record, host, "ip", family, "route", "get", address).stdout
            ),
            f"{host} is told what fits",
        )
        assert received(record, host, address, 20, "-s", "1420") == 20  # its kernel knows now, and fragments
    finally:
        lab.execute(record, "t1", "ip", "link", "set", towards, "mtu", "2000")
        lab.execute(record, host, "ip", family, "route", "flush", "cache")


def test_a_host_that_moves_to_another_edge_is_found_there(record: LabRecord) -> None:
    """The last of these: a1 goes on, with its MAC and its addresses, behind e3, in c1's place. All reach it."""
    for asker in ("b1", "a2"):
        wait_until_reached(record, asker, A1)
        wait_until_reached(record, asker, A1_6)
    network = json.loads(stitch("get", "network", "campus/office", "-o", "json"))
    places = {attachment["name"]: attachment for attachment in network["spec"]["attachments"]}
    places["a1"] |= {"node": "e3", "port": places["c1"]["port"]}
    network["spec"]["attachments"] = [place for name, place in places.items() if name != "c1"]
    manifest = {"apiVersion": "netstitch/v1", "kind": "Network", "spec": network["spec"]}
    mac = json.loads(lab.execute(record, "a1", "ip", "-j", "link", "show", "eth0").stdout)[0]["address"]
    for host in ("a1", "c1"):
        lab.execute(record, host, "ip", "address", "flush", "dev", "eth0", "scope", "global")
        lab.execute(record, host, "ip", "link", "set", "eth0", "down")
    move = (
        f"ip link set eth0 address {mac}; ip link set eth0 up; ip address add {A1}/24 dev eth0; "
        f"ip -6 address add {A1_6}/64 dev eth0 nodad"
    )
    lab.execute(record, "c1", "sh", "-c", move)
    stitch("apply", "-f", "-", text=json.dumps({**manifest, "metadata": {"name": "campus/office"}}))
    for asker in ("b1", "a2"):
        for address in (A1, A1_6):
            wait_until_reached(record, asker, address)
            assert received(record, asker, address, 20) == 20
    back = f"ip link set eth0 up; ip address add {A1}/24 dev eth0"
    lab.execute(record, "a1", "sh", "-c", back)
    assert received(record, "a1", B1, 5) == 0, "where it was, the address is nobody's"
