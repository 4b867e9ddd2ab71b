"""Edges that are joined by Open vSwitches: an intent crosses them, and leaves nothing behind."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import LIMIT_S, wait_for

from topologies import lab, links
from topologies.ovs import socket_of
from topologies.record import LabRecord, directory_of

pytestmark = pytest.mark.root

STITCH = Path(sys.executable).parent / "stitch"
NAME = f"test-openflow-{os.getpid()}"
SWITCHES = ("s1", "s2", "s3")
B1, B1_6 = "10.2.0.10", "2001:db8:2::10"
NODE_ENTRIES, WITH_INTENT = 2, 4
"""Of each switch, without and with the intent: each direction has one."""


@pytest.fixture(scope="module")
def record() -> Iterator[LabRecord]:
    started = lab.up("switches", NAME, say=lambda _: None)
    try:
        sentence = "isolate campus/desks; allow campus/servers/files tcp/80 icmp"
        stitch("intent", sentence, "--name", "files", "--tenant", "desks", "--yes", "--wait", str(LIMIT_S))
        yield started
    finally:
        lab.down(NAME)


def stitch(*arguments: str) -> str:
    command = [str(STITCH), "--lab", NAME, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S + 60)
    assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
    return done.stdout


def flows(switch: str) -> list[str]:
    socket = f"unix:{socket_of(str(directory_of(NAME) / switch / 'ovs'))}"
    command = ["ovs-ofctl", "-O", "OpenFlow13", "--no-stats", "dump-flows", socket]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def received(record: LabRecord, address: str, count: int = 1) -> int:
    done = lab.execute(record, "a1", "ping", "-c", str(count), "-i", "0.02", "-W", "1", "-q", address)
    summary = re.search(r"(\d+) received", done.stdout)
    assert summary is not None, (done.stdout, done.stderr)
    return int(summary[1])


def path() -> list[str]:
    found: list[str] = json.loads(stitch("get", "intents", "files", "-o", "json"))["status"]["path"]
    return found


@pytest.mark.parametrize("address", [B1, B1_6])
def test_packets_cross_the_switches(record: LabRecord, address: str) -> None:
    wait_for(lambda: received(record, address) == 1, f"a1 reaches {address}")
    assert path() == ["e1", "s1", "s2", "e2"]
    assert [len(flows(switch)) for switch in SWITCHES] == [WITH_INTENT] * 3


def test_what_crosses_them_is_traced_and_known_by_its_intent(record: LabRecord) -> None:
    hops = json.loads(stitch("trace", "a1", B1, "-o", "json"))["hops"]
    assert [hop["node"] for hop in hops] == ["e1", "s1", "s2", "e2"]
    (entry,) = {step["entry"] for hop in hops if hop["node"] == "s1" for step in hop["steps"]}
    assert "intents/files" in stitch("explain", f"entries/{entry}")


def test_links_to_switches_are_heard_by_lldp(record: LabRecord) -> None:
    def discovered() -> set[str]:
        listed = json.loads(stitch("get", "links", "-o", "json"))
        return {link["metadata"]["name"] for link in listed if link["status"].get("discovery") == "confirmed"}

    wait_for(lambda: discovered() == {"e1-s1", "s1-s2", "s2-e2", "e1-s3", "s3-e2"}, "all links are confirmed")


def test_a_controller_that_is_started_again_sends_a_switch_nothing(record: LabRecord) -> None:
    before = {switch: flows(switch) for switch in SWITCHES}
    log = directory_of(NAME) / "campus.log"
    seen = len(log.read_text())
    lab.restart(NAME, "campus")

    def writes() -> dict[str, str]:
        events = (json.loads(line) for line in log.read_text()[seen:].splitlines() if line.startswith("{"))
        return {event["node"]: event["writes"] for event in events if event["event"] == "node_synced"}

    wait_for(lambda: {*SWITCHES} <= writes().keys(), "all switches are in sync")
    assert {writes()[switch] for switch in SWITCHES} == {"0"}
    assert {switch: flows(switch) for switch in SWITCHES} == before


def test_a_switch_that_is_started_empty_has_all_of_it_again(record: LabRecord) -> None:
    lab.restart(NAME, "s1")
    wait_for(lambda: len(flows("s1")) == WITH_INTENT, "s1 has its entries")
    wait_for(lambda: received(record, B1) == 1, "a1 reaches b1")


def test_a_link_between_switches_that_is_cut_is_gone_around(record: LabRecord) -> None:
    topology = lab.topology_of(record)
    wire = links.find(topology, "s1", "s2")
    links.set_carrier(record, wire, False)
    wait_for(lambda: path() == ["e1", "s3", "e2"], "the intent goes by s3")
    wait_for(lambda: received(record, B1) == 1, "a1 reaches b1 by s3")
    links.set_carrier(record, wire, True)


def test_an_intent_that_is_withdrawn_leaves_nothing_on_a_switch(record: LabRecord) -> None:
    stitch("delete", "intents/files")
    wait_for(lambda: [len(flows(switch)) for switch in SWITCHES] == [NODE_ENTRIES] * 3, "its entries are gone")
    assert received(record, B1) == 0
