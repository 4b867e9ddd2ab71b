"""Edges that are joined by BMv2 switches, which run the P4 program: an intent's path names them as any node."""

import json
import os
from collections.abc import Iterator

import pytest
from bmv2 import SWITCH
from switch_lab import B1, B1_6, SwitchLab, switch_lab
from waiting import wait_for

from topologies import lab, links, topology_file

NAME = f"test-bmv2-{os.getpid()}"

if SWITCH:
    pytestmark = pytest.mark.root

    @pytest.fixture(scope="module")
    def campus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwitchLab]:
        file = tmp_path_factory.mktemp("bmv2") / "switches.yaml"
        text = (topology_file.DIRECTORY / "switches.yaml").read_text()
        file.write_text(text.replace("switch: ovs", "switch: bmv2"))
        with switch_lab(str(file), NAME) as made:
            yield made

    @pytest.mark.parametrize("address", [B1, B1_6])
    def test_packets_pass_the_switches(campus: SwitchLab, address: str) -> None:
        wait_for(lambda: campus.received(address) == 1, f"a1 reaches {address}")
        assert campus.path() == ["e1", "s1", "s2", "e2"]

    def test_their_sids_are_segments_and_are_traced(campus: SwitchLab) -> None:
        hops = json.loads(campus.stitch("trace", "a1", B1, "-o", "json"))["hops"]
        assert [hop["node"] for hop in hops] == ["e1", "s1", "s2", "e2"]
        tables = [{step["entry"].split("/")[1] for step in hop["steps"]} for hop in hops[1:3]]
        assert all("local_sid" in at_switch for at_switch in tables), tables

    def test_links_are_heard_by_lldp_and_all_is_well(campus: SwitchLab) -> None:
        campus.await_links()
        nodes = json.loads(campus.stitch("get", "nodes", "-o", "json"))
        assert {node["status"]["phase"] for node in nodes} == {"Ready"}

    def test_a_controller_that_is_started_again_writes_nothing(campus: SwitchLab) -> None:
        assert {*campus.restart_controller().values()} == {"0"}

    def test_a_switch_that_is_started_empty_has_all_of_it_again(campus: SwitchLab) -> None:
        seen = len(campus.log.read_text())
        lab.restart(NAME, "s1")
        wait_for(lambda: '"node": "s1", "writes"' in campus.log.read_text()[seen:], "s1 is in sync")
        wait_for(lambda: campus.received(B1) == 1, "a1 reaches b1")

    def test_a_link_that_no_agent_sees_is_left_when_probes_do_not_come_back(campus: SwitchLab) -> None:
        wire = links.find(lab.topology_of(campus.record), "s1", "s2")
        wait_for(lambda: campus.received(B1, 20) == 20, "the way by s1 and s2 carries")
        links.set_carrier(campus.record, wire, False)
        wait_for(lambda: campus.received(B1, 20) == 20, "the way by s3 carries")
        links.set_carrier(campus.record, wire, True)
