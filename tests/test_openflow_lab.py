"""Edges that are joined by Open vSwitches: an intent crosses them, and leaves nothing behind."""

import json
import os
import subprocess
from collections.abc import Iterator

import pytest
from switch_lab import B1, B1_6, SWITCHES, SwitchLab, switch_lab
from waiting import wait_for

from topologies import lab, links
from topologies.ovs import socket_of
from topologies.record import directory_of

pytestmark = pytest.mark.root

NAME = f"test-openflow-{os.getpid()}"
NODE_ENTRIES, WITH_INTENT = 2, 4
"""Of each switch, without and with the intent: each direction has one."""


@pytest.fixture(scope="module")
def campus() -> Iterator[SwitchLab]:
    with switch_lab("switches", NAME) as made:
        yield made


def flows(switch: str) -> list[str]:
    socket = f"unix:{socket_of(str(directory_of(NAME) / switch / 'ovs'))}"
    command = ["ovs-ofctl", "-O", "OpenFlow13", "--no-stats", "dump-flows", socket]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("address", [B1, B1_6])
def test_packets_cross_the_switches(campus: SwitchLab, address: str) -> None:
    wait_for(lambda: campus.received(address) == 1, f"a1 reaches {address}")
    assert campus.path() == ["e1", "s1", "s2", "e2"]
    assert [len(flows(switch)) for switch in SWITCHES] == [WITH_INTENT] * 3


def test_what_crosses_them_is_traced_and_known_by_its_intent(campus: SwitchLab) -> None:
    hops = json.loads(campus.stitch("trace", "a1", B1, "-o", "json"))["hops"]
    assert [hop["node"] for hop in hops] == ["e1", "s1", "s2", "e2"]
    (entry,) = {step["entry"] for hop in hops if hop["node"] == "s1" for step in hop["steps"]}
    assert "intents/files" in campus.stitch("explain", f"entries/{entry}")


def test_links_to_switches_are_heard_by_lldp(campus: SwitchLab) -> None:
    campus.await_links()


def test_a_controller_that_is_started_again_sends_a_switch_nothing(campus: SwitchLab) -> None:
    before = {switch: flows(switch) for switch in SWITCHES}
    assert {*campus.restart_controller().values()} == {"0"}
    assert {switch: flows(switch) for switch in SWITCHES} == before


def test_a_switch_that_is_started_empty_has_all_of_it_again(campus: SwitchLab) -> None:
    lab.restart(NAME, "s1")
    wait_for(lambda: len(flows("s1")) == WITH_INTENT, "s1 has its entries")
    wait_for(lambda: campus.received(B1) == 1, "a1 reaches b1")


def test_a_link_between_switches_that_is_cut_is_gone_around(campus: SwitchLab) -> None:
    wire = links.find(lab.topology_of(campus.record), "s1", "s2")
    links.set_carrier(campus.record, wire, False)
    wait_for(lambda: campus.path() == ["e1", "s3", "e2"], "the intent goes by s3")
    wait_for(lambda: campus.received(B1) == 1, "a1 reaches b1 by s3")
    links.set_carrier(campus.record, wire, True)


def test_an_intent_that_is_withdrawn_leaves_nothing_on_a_switch(campus: SwitchLab) -> None:
    campus.stitch("delete", "intents/files")
    wait_for(lambda: [len(flows(switch)) for switch in SWITCHES] == [NODE_ENTRIES] * 3, "its entries are gone")
    assert campus.received(B1) == 0
