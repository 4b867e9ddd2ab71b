"""Sessions with a real Open vSwitch: what it shall have it has, whoever dies, and whoever else writes."""

import asyncio
import itertools
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from openflow_switches import OpenVSwitch, open_vswitch
from waiting import until

from controller.fulfillment.crossings import Crossing, crossing_entries, node_entries
from controller.model.entry import OwnedEntry
from controller.model.event import NodeDescribed, NodeRejected, NodeSynced, NodeUnreachable, SyncNode
from controller.model.node_entries import NodeEntries, NodeState
from controller.southbound.codec import Codec
from controller.southbound.nodes import Nodes
from controller.southbound.session import SessionContext
from dataplane.host_api import Gateway, HostState
from dataplane.p4runtime import p4info

pytestmark = pytest.mark.root

HEADEND, TAIL = 0x5F00_0001_0001 << 80, 0x5F00_0001_0002 << 80
IDS = itertools.count(1000)
MACS = {("s1", 0x12345): 1, ("s1", 2): 0x020000000102, ("e2", 1): 0x020000000201}


def entries(*sr_policies: int) -> tuple[OwnedEntry, ...]:
    """What a switch has that these cross."""
    crossing = Crossing(node="s1", in_port=1, out_port=2, next_segment=TAIL, onward=("e2", 1))
    crossed = [entry for number in sr_policies for entry in crossed_by(number, crossing)]
    return (*node_entries("s1"), *crossed)


def crossed_by(number: int, crossing: Crossing) -> tuple[OwnedEntry, ...]:
    return crossing_entries(number, HEADEND, [crossing], MACS, f"sr_policies/e1/{number}")["s1"]


@dataclass
class Controller:
    nodes: Nodes
    events: list[Any] = field(default_factory=list)
    generation: int = 0

    async def sync(self, *wanted: OwnedEntry, audit: bool = False, host: HostState | None = None) -> Any:
        """What comes of it."""
        seen = len(self.events)
        self.submit(*wanted, audit=audit, host=host)
        return await self.next(NodeSynced, NodeRejected, after=seen)

    def submit(self, *wanted: OwnedEntry, audit: bool = False, host: HostState | None = None) -> None:
        self.generation += not audit
        state = NodeState(entries=NodeEntries(wanted), host=host or HostState())
        self.nodes.sync(SyncNode(node="s1", generation=self.generation, state=state, audit=audit))

    async def next(self, *kinds: type, after: int = 0, node: str = "s1") -> Any:
        def first() -> Any:
            return next((each for each in self.events[after:] if isinstance(each, kinds) and each.node == node), None)

        return await until(first, f"one of {kinds}")


@asynccontextmanager
async def controller(tls: ssl.SSLContext | None = None) -> AsyncIterator[Controller]:
    """Newer than all before."""
    events: list[Any] = []

    async def report(event: Any) -> None:
        events.append(event)

    context = SessionContext(
        codec=Codec(p4info.load()),
        next_election_id=IDS.__next__,
        report=report,
        observe=lambda node, batch: None,
        domain="campus",
        tls=tls,
    )
    async with asyncio.TaskGroup() as tasks:
        nodes = Nodes(tasks, context)
        yield Controller(nodes, events)
        for name in nodes.names():
            nodes.disconnect(name)


@pytest.fixture(scope="module")
def running() -> Iterator[OpenVSwitch]:
    with open_vswitch() as switch:
        yield switch


@pytest.fixture
def switch(running: OpenVSwitch) -> OpenVSwitch:
    """Empty, as one that was just started."""
    running.ofctl("del-flows")
    return running


async def test_a_switch_says_what_it_is_and_gets_what_it_shall_have(switch: OpenVSwitch) -> None:
    async with controller() as own:
        own.nodes.connect("s1", switch.agent)
        described = await own.next(NodeDescribed)
        assert described.description.software.startswith("Open vSwitch")
        assert {port.interface: port.number for port in described.description.ports} == {"p1": 1, "p2": 2}
        assert described.sizes["openflow"] > 10_000
        assert (await own.sync(*entries(1, 2))).writes == 4
        flows = switch.flows()
        assert len(flows) == 4
        match = "ipv6_src=5f00:1:1::,ipv6_dst=5f00:1:2::/48,ipv6_label=0x00080/0x7ffc0"
        assert any(f"{match} actions=dec_ttl," in flow for flow in flows), flows
        assert (await own.sync(*entries(2))).writes == 1
        assert len(switch.flows()) == 3


async def test_a_new_session_sends_nothing_that_is_there(switch: OpenVSwitch) -> None:
    async with controller() as own:
        own.nodes.connect("s1", switch.agent)
        await own.sync(*entries(1, 2, 3))
    async with controller() as again:
        again.nodes.connect("s1", switch.agent)
        assert (await again.sync(*entries(1, 2, 3))).writes == 0


async def test_what_others_write_is_taken_back_and_told_with_its_owner(switch: OpenVSwitch) -> None:
    async with controller() as own:
        own.nodes.connect("s1", switch.agent)
        await own.sync(*entries(1, 2))
        right = switch.flows()
        switch.ofctl("del-flows", "ipv6,ipv6_label=0x00040/0x7ffc0")
        switch.ofctl("mod-flows", "ipv6,ipv6_label=0x00080/0x7ffc0,actions=output:1")
        switch.ofctl("add-flow", "table=7,priority=9,tcp,tp_dst=80,nw_tos=4,actions=NORMAL")
        switch.ofctl("add-flow", "priority=9,tun_id=0x10/0xf0,hard_timeout=900,actions=drop")
        synced = await own.sync(*entries(1, 2), audit=True)
        told = {(deviation.what, deviation.owner) for deviation in synced.deviations}
        assert told == {("missing", "sr_policies/e1/1"), ("changed", "sr_policies/e1/2"), ("foreign", "")}
        assert sorted(switch.flows()) == sorted(right)
        assert not (await own.sync(*entries(1, 2))).deviations


async def test_a_cookie_of_somebody_else_is_a_change(switch: OpenVSwitch) -> None:
    async with controller() as own:
        own.nodes.connect("s1", switch.agent)
        await own.sync(*entries(1))
        right = switch.flows()
        (flow,) = [line for line in right if "ipv6_label" in line]
        switch.ofctl("add-flow", re.sub("cookie=[^,]*", "cookie=0x1", flow.strip()))
        synced = await own.sync(*entries(1), audit=True)
        assert [deviation.what for deviation in synced.deviations] == ["changed"]
        assert sorted(switch.flows()) == sorted(right)


async def test_a_switch_that_comes_back_empty_gets_all_of_it_again() -> None:
    with open_vswitch(0xB1) as switch:
        async with controller() as own:
            own.nodes.connect("s1", switch.agent)
            await own.sync(*entries(1))
            right = switch.flows()
            switch.stop()
            gone = await own.next(NodeUnreachable)
            assert "closed the connection" in gone.reason
            own.nodes.sync(
                SyncNode(node="s1", generation=2, state=NodeState(entries=NodeEntries(entries(1)), host=HostState()))
            )
            switch.start()
            await until(lambda: len(own.events) and isinstance(own.events[-1], NodeSynced), "all of it is there again")
            assert own.events[-1].writes == 3
            assert sorted(switch.flows()) == sorted(right)


async def test_a_refused_flow_says_whose_it_is_and_the_others_are_there(switch: OpenVSwitch) -> None:
    """An Open vSwitch has no port of more than 16 bits."""
    wrong = crossed_by(9, Crossing(node="s1", in_port=1, out_port=0x12345, next_segment=TAIL, onward=("e2", 1)))
    async with controller() as own:
        own.nodes.connect("s1", switch.agent)
        rejected = await own.sync(*entries(1), *wrong)
        assert isinstance(rejected, NodeRejected)
        (part,) = rejected.refused or ()
        assert part.part == "sr_policies/e1/9" and "bad action: output port" in part.reason
        assert len(switch.flows()) == 3
        assert (await own.sync(*entries(1))).writes == 0


async def test_another_datapath_than_the_manifest_says_is_named_and_gets_nothing(switch: OpenVSwitch) -> None:
    async with controller() as own:
        own.nodes.connect("s1", f"openflow:{0xDEAD:016x}@{switch.socket}")
        gone = await own.next(NodeUnreachable)
        assert "is datapath 00000000000000a1, not 000000000000dead" in gone.reason
        assert switch.flows() == []


async def test_of_two_nodes_with_one_datapath_the_second_is_named(switch: OpenVSwitch) -> None:
    async with controller() as own:
        own.nodes.connect("s1", switch.agent)
        await own.next(NodeDescribed)
        own.nodes.connect("s2", switch.agent)
        gone = await own.next(NodeUnreachable, node="s2")
        assert "is datapath 00000000000000a1, as node s1" in gone.reason
        assert own.nodes.fault("s1") == ""
        own.nodes.disconnect("s1")
        await own.next(NodeDescribed, node="s2")


async def test_the_newest_controller_leads_and_the_other_is_told(switch: OpenVSwitch) -> None:
    async with controller() as older, controller() as newer:
        older.nodes.connect("s1", switch.agent)
        await older.sync(*entries(1))
        newer.nodes.connect("s1", switch.agent)
        await newer.sync(*entries(1, 2))
        refused = await older.sync(*entries(3))
        assert isinstance(refused, NodeRejected) and "another controller leads it" in refused.reason
        assert len(switch.flows()) == 4


async def test_what_only_an_agent_of_ours_can_do_is_refused(switch: OpenVSwitch) -> None:
    async with controller() as own:
        own.nodes.connect("s1", switch.agent)
        host = HostState(gateways=(Gateway(port=1, ipv4="10.0.0.1"),))
        rejected = await own.sync(*entries(), host=host)
        (part,) = rejected.refused
        assert part.part == "ports/1" and "no hosts are attached" in part.reason


async def test_a_switch_beyond_this_machine_needs_tls() -> None:
    async with controller() as own:
        own.nodes.connect("s1", f"openflow:{0xA1:016x}@192.0.2.1:6653")
        gone = await own.next(NodeUnreachable)
        assert "needs TLS" in gone.reason
