"""Edges that are joined by BMv2 switches, which run the P4 program: an intent's path names them as any node."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bmv2 import SWITCH
from waiting import LIMIT_S, wait_for

from topologies import lab, links, topology_file
from topologies.record import LabRecord, directory_of

STITCH = Path(sys.executable).parent / "stitch"
NAME = f"test-bmv2-{os.getpid()}"
SWITCHES = ("s1", "s2", "s3")
B1, B1_6 = "10.2.0.10", "2001:db8:2::10"

if SWITCH:
    pytestmark = pytest.mark.root

    @pytest.fixture(scope="module")
    def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabRecord]:
        file = tmp_path_factory.mktemp("bmv2") / "switches.yaml"
        text = (topology_file.DIRECTORY / "switches.yaml").read_text()
        file.write_text(text.replace("switch: ovs", "switch: bmv2"))
        started = lab.up(str(file), NAME, say=lambda _: None)
        try:
            sentence = "isolate campus/desks; allow campus/servers/files tcp/80 icmp"
            stitch("intent", sentence, "--name", "files", "--tenant", "desks", "--yes", "--wait", str(LIMIT_S))
            yield started
        finally:
            lab.down(NAME)

    @pytest.mark.parametrize("address", [B1, B1_6])
    def test_packets_pass_the_switches(record: LabRecord, address: str) -> None:
        wait_for(lambda: received(record, address) == 1, f"a1 reaches {address}")
        assert path() == ["e1", "s1", "s2", "e2"]

    def test_their_sids_are_segments_and_are_traced(record: LabRecord) -> None:
        hops = json.loads(stitch("trace", "a1", B1, "-o", "json"))["hops"]
        assert [hop["node"] for hop in hops] == ["e1", "s1", "s2", "e2"]
        tables = [{step["entry"].split("/")[1] for step in hop["steps"]} for hop in hops[1:3]]
        assert all("local_sid" in at_switch for at_switch in tables), tables

    def test_links_are_heard_by_lldp_and_all_is_well(record: LabRecord) -> None:
        def discovered() -> set[str]:
            listed = json.loads(stitch("get", "links", "-o", "json"))
            return {link["metadata"]["name"] for link in listed if link["status"].get("discovery") == "confirmed"}

        wait_for(lambda: discovered() == {"e1-s1", "s1-s2", "s2-e2", "e1-s3", "s3-e2"}, "all links are confirmed")
        assert {node["status"]["phase"] for node in json.loads(stitch("get", "nodes", "-o", "json"))} == {"Ready"}

    def test_a_controller_that_is_started_again_writes_nothing(record: LabRecord) -> None:
        log = directory_of(NAME) / "campus.log"
        seen = len(log.read_text())
        lab.restart(NAME, "campus")

        def writes() -> dict[str, str]:
            events = (json.loads(line) for line in log.read_text()[seen:].splitlines() if line.startswith("{"))
            return {event["node"]: event["writes"] for event in events if event["event"] == "node_synced"}

        wait_for(lambda: {*SWITCHES} <= writes().keys(), "all switches are in sync")
        assert {writes()[switch] for switch in SWITCHES} == {"0"}

    def test_a_switch_that_is_started_empty_has_all_of_it_again(record: LabRecord) -> None:
        log = directory_of(NAME) / "campus.log"
        seen = len(log.read_text())
        lab.restart(NAME, "s1")
        wait_for(lambda: '"node": "s1", "writes"' in log.read_text()[seen:], "s1 is in sync")
        wait_for(lambda: received(record, B1) == 1, "a1 reaches b1")

    def test_a_link_that_no_agent_sees_is_left_when_probes_do_not_come_back(record: LabRecord) -> None:
        wire = links.find(lab.topology_of(record), "s1", "s2")
        wait_for(lambda: received(record, B1, 20) == 20, "the way by s1 and s2 carries")
        links.set_carrier(record, wire, False)
        wait_for(lambda: received(record, B1, 20) == 20, "the way by s3 carries")
        links.set_carrier(record, wire, True)


def stitch(*arguments: str) -> str:
    command = [str(STITCH), "--lab", NAME, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S + 60)
    assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
    return done.stdout


def received(record: LabRecord, address: str, count: int = 1) -> int:
    done = lab.execute(record, "a1", "ping", "-c", str(count), "-i", "0.02", "-W", "1", "-q", address)
    summary = re.search(r"(\d+) received", done.stdout)
    assert summary is not None, (done.stdout, done.stderr)
    return int(summary[1])


def path() -> list[str]:
    nodes: list[str] = json.loads(stitch("get", "intents", "files", "-o", "json"))["status"]["path"]
    return nodes
