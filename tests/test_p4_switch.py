"""P4 switches: nodes with our pipeline and no agent, over P4Runtime alone."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import p4runtime_node
import pytest
from finsy.proto import p4r, p4r_grpc
from test_southbound import STATE, next_hop
from waiting import until

from controller.fulfillment.fabric import fabric
from controller.fulfillment.ports import attachment_objection, end_objection
from controller.language.scalars import AGENT
from controller.model.entry import OwnedEntry
from controller.model.event import NodeDescribed, NodeRejected, NodeSynced, NodeUnreachable, SyncNode
from controller.model.inventory import Domain, Inventory, Link, LinkEnd, Node
from controller.model.node_entries import NodeEntries, NodeState
from controller.model.p4_switch import P4Switch, p4_switch, port_mac
from controller.southbound.codec import Codec
from controller.southbound.nodes import Nodes
from controller.southbound.p4_switch import description
from controller.southbound.p4runtime import P4RuntimeClient, cookie
from controller.southbound.session import SessionContext
from dataplane import addressing
from dataplane.host_api import Gateway, HostState
from dataplane.p4runtime import p4info
from dataplane.p4runtime.p4_program import PROGRAM_FILE

CODEC = Codec(p4info.load())
IDS = itertools.count(1000)


@dataclass
class Controller:
    nodes: Nodes
    events: list[Any] = field(default_factory=list)
    generation: int = 0

    async def sync(self, *wanted: OwnedEntry, host: HostState | None = None) -> Any:
        """What comes of it."""
        seen = len(self.events)
        self.generation += 1
        state = NodeState(entries=NodeEntries(wanted), host=host or HostState())
        self.nodes.sync(SyncNode(node="s1", generation=self.generation, state=state, audit=False))
        return await self.next(NodeSynced, NodeRejected, after=seen)

    async def next(self, *kinds: type, after: int = 0, node: str = "s1") -> Any:
        def first() -> Any:
            return next((each for each in self.events[after:] if isinstance(each, kinds) and each.node == node), None)

        return await until(first, f"one of {kinds}")


@asynccontextmanager
async def controller() -> AsyncIterator[Controller]:
    """Newer than all before."""
    events: list[Any] = []

    async def report(event: Any) -> None:
        events.append(event)

    context = SessionContext(
        codec=CODEC,
        next_election_id=IDS.__next__,
        report=report,
        observe=lambda node, batch: None,
        domain="campus",
    )
    async with asyncio.TaskGroup() as tasks:
        nodes = Nodes(tasks, context)
        yield Controller(nodes, events)
        for name in nodes.names():
            nodes.disconnect(name)


@asynccontextmanager
async def target(directory: Path) -> AsyncIterator[p4runtime_node.Node]:
    """That runs our program already: an agent's own server, which brings its program, says so."""
    async with p4runtime_node.node(directory) as node:
        program = PROGRAM_FILE.read_bytes()
        async with grpc.aio.insecure_channel(node.address) as channel:
            election_id = next(IDS)
            client = P4RuntimeClient("s1", channel, CODEC, election_id, p4runtime_node.DEVICE)
            await client.become_primary()
            config = p4r.SetForwardingPipelineConfigRequest(device_id=p4runtime_node.DEVICE)
            config.election_id.low = election_id
            config.action = p4r.SetForwardingPipelineConfigRequest.RECONCILE_AND_COMMIT
            config.config.p4info.CopyFrom(CODEC.p4info.message)
            config.config.cookie.cookie = cookie(CODEC.p4info.message, program)
            await p4r_grpc.P4RuntimeStub(channel).SetForwardingPipelineConfig(config)
            client.close()
        yield node


def agent_of(switch: p4runtime_node.Node, device_id: int = p4runtime_node.DEVICE) -> str:
    return f"p4runtime:{device_id}@{switch.address}"


async def test_a_switch_gets_our_program_and_what_it_shall_have(tmp_path: Path) -> None:
    async with target(tmp_path) as switch, controller() as own:
        own.nodes.connect("s1", agent_of(switch))
        described = await own.next(NodeDescribed)
        assert not described.description.tells_ports
        assert described.sizes["next_hop"] > 0
        assert (await own.sync(*STATE)).writes == len(STATE)
        assert (await own.sync(*STATE[:-1])).writes == 1


async def test_a_new_session_pushes_no_program_and_writes_nothing_that_is_there(tmp_path: Path) -> None:
    async with target(tmp_path) as switch:
        async with controller() as own:
            own.nodes.connect("s1", agent_of(switch))
            await own.sync(*STATE)
        async with controller() as own:
            own.nodes.connect("s1", agent_of(switch))
            assert (await own.sync(*STATE)).writes == 0  # to set a pipeline would have cleared its tables


async def test_a_target_that_does_not_take_our_program_says_why(tmp_path: Path) -> None:
    async with p4runtime_node.node(tmp_path) as agent, controller() as own:
        own.nodes.connect("s1", agent_of(agent))
        assert "the program is compiled in" in (await own.next(NodeUnreachable)).reason


async def test_what_only_an_agent_can_do_is_refused_and_entries_are_written(tmp_path: Path) -> None:
    async with target(tmp_path) as switch, controller() as own:
        own.nodes.connect("s1", agent_of(switch))
        gateway = Gateway(port=2, ipv4="10.1.0.1", ipv6="2001:db8:1::1")
        rejected = await own.sync(*STATE, host=HostState(gateways=(gateway,)))
        assert [part.part for part in rejected.refused] == ["ports/2"]
        assert "runs no agent" in rejected.reason
        assert (await own.sync(*STATE)).writes == 0


async def test_lldp_leaves_by_the_ports_that_next_hops_lead_to(tmp_path: Path) -> None:
    async with target(tmp_path) as switch, controller() as own:
        own.nodes.connect("s1", agent_of(switch))
        await own.sync(next_hop(3, port=3), next_hop(4, port=4))
        await until(lambda: {3, 4} <= {port for port, _ in switch.ports.sent}, "frames out of both")
        assert {frame[12:14] for _, frame in switch.ports.sent} == {b"\x88\xcc"}


async def test_a_switch_is_one_node(tmp_path: Path) -> None:
    async with target(tmp_path) as switch, controller() as own:
        own.nodes.connect("s1", agent_of(switch))
        await own.next(NodeDescribed)
        own.nodes.connect("s2", agent_of(switch))
        refused = await own.next(NodeUnreachable, node="s2")
        assert "is node s1: check `agent`" in refused.reason


async def test_another_device_id_is_not_led(tmp_path: Path) -> None:
    async with target(tmp_path) as switch, controller() as own:
        own.nodes.connect("s1", agent_of(switch, 8))
        assert "device" in (await own.next(NodeUnreachable)).reason


@pytest.mark.parametrize("text", ["p4runtime:1@unix:/run/s1.sock", "p4runtime:18446744073709551615@192.0.2.1:9559"])
def test_agents_that_are_p4_switches(text: str) -> None:
    assert AGENT.make(text) == text
    device_id, _, address = text.removeprefix("p4runtime:").partition("@")
    assert p4_switch(text) == P4Switch(device_id=int(device_id), address=address)


@pytest.mark.parametrize(
    "text",
    [
        "p4runtime:0@unix:/x",
        "p4runtime:01@unix:/x",
        "p4runtime:18446744073709551616@unix:/x",
        "p4runtime:1@",
        "p4runtime:@unix:/x",
        "p4runtime:\u0661@unix:/x",
        "p4runtime:1@unix:relative",
        "p4runtime:1@openflow:00000000000000a1@unix:/x",
        "p4runtime:1@p4runtime:1@unix:/x",
        "p4runtime:1@unix:/x\n",
    ],
)
def test_agents_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        AGENT.make(text)


def test_a_ports_mac_is_of_one_port_and_an_interfaces() -> None:
    locators = [0x5F00 << 112 | block << 96 | node << 80 for block in (0, 1, 0xFFFF) for node in (0, 1, 0xFFFF)]
    macs = {port_mac(locator, port) for locator in locators for port in range(512)}
    assert len(macs) == 512 * len(locators)
    for mac in random.Random(1).sample(sorted(macs), 200):
        assert addressing.mac(mac.to_bytes(6).hex(":")) == mac
        assert mac >> 40 & 2, "locally administered"


def test_links_of_a_switch_need_no_word_of_it_and_hosts_find_no_place_there() -> None:
    nodes = {
        "e1": Node(name="e1", role="edge", locator="5f00:1:1::/48", agent="unix:/e1"),
        "s1": Node(name="s1", role="transit", locator="5f00:1:2::/48", agent="p4runtime:1@unix:/s1"),
        "s2": Node(name="s2", role="transit", locator="5f00:1:3::/48", agent="p4runtime:2@unix:/s1"),
    }
    ends = LinkEnd(node="s1", port=7), LinkEnd(node="s2", port=300)
    link = Link(name="s1-s2", a=ends[0], b=ends[1], delay_us=1, rate_bps=1, mtu=2000)
    inventory = Inventory(
        nodes=nodes, links={link.name: link}, domains={"own": Domain(name="own", sid_block="5f00:1::/32", own=True)}
    )
    hops = [entry for entry in fabric(inventory, {}, "own").entries["s1"] if entry.table == "next_hop"]
    assert [dict(hop.params) for hop in hops] == [
        {"port": 7, "source_mac": 0x020001000207, "destination_mac": 0x06000100032C, "vlan": 0}
    ]
    said = description("s1")
    assert end_objection(ends[0], said) == ""
    assert "no ports for hosts" in attachment_objection("s1", 7, said)
    assert "no border" in end_objection(LinkEnd(node="s1", border="b"), said)
