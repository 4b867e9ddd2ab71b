"""Drivers and sessions of nodes, against the agent's own P4Runtime server over maps in memory."""

import asyncio
import dataclasses
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import msgspec
import pytest
from finsy.proto import p4r
from hypothesis import given, settings
from node_fake import FakeHost, FakeNode
from pipeline_tables import SIZES
from pipeline_tables import entries as table_entries
from waiting import LIMIT_S, until

from controller.errors import TargetRejected, TargetUnreachable
from controller.model.entry import Match, OwnedEntry, owned_entry
from controller.model.event import NodeDescribed, NodeRejected, NodeSynced, NodeUnreachable, SyncNode
from controller.model.node_entries import Delta, NodeEntries, NodeState
from controller.southbound import p4runtime
from controller.southbound import session as session_module
from controller.southbound.codec import Codec, Row, behaviour, key, octets
from controller.southbound.difference import DEVIATIONS_TOLD, STEPS, Operation, batches, difference, index
from controller.southbound.node import CHANNEL_OPTIONS
from controller.southbound.nodes import Nodes
from controller.southbound.p4runtime import TURN, P4RuntimeClient
from controller.southbound.session import SessionContext
from dataplane.entry import TableEntry
from dataplane.host_api import BorderConfig, Gateway, HostState, PortConfig, PortRole, Probe, TelemetryBatch, Tunnel
from dataplane.p4runtime import p4info

CODEC = Codec(p4info.load())
OWNER = "intents/orders"


NOTHING = HostState()


def address(text: str) -> int:
    return int(IPv6Address(text))


def route(prefix: str, next_hop: int, owner: str = OWNER, vrf: int = 0) -> OwnedEntry:
    where, _, length = prefix.partition("/")
    match = (
        Match(field="vrf", value=vrf),
        Match(field="destination", value=address(where), prefix_length=int(length)),
    )
    return owned_entry(table="route", match=match, action="set_next_hop", params=(("next_hop", next_hop),), owner=owner)


def next_hop(number: int, port: int = 1) -> OwnedEntry:
    params = (("port", port), ("source_mac", 0x020000000001), ("destination_mac", 0x020000000002), ("vlan", 0))
    match = (Match(field="next_hop", value=number),)
    return owned_entry(table="next_hop", match=match, action="forward", params=params, owner="links/a-b")


def permit(policy_class: int, forwarding_class: int, priority: int = 10, owner: str = OWNER) -> OwnedEntry:
    match = (
        Match(field="policy_class", value=policy_class),
        Match(field="l4_class", value=0, mask=0xE),
    )
    params = (("forwarding_class", forwarding_class),)
    return owned_entry(table="flow_policy", match=match, priority=priority, action="permit", params=params, owner=owner)


def port_class(first: int, last: int, number: int) -> OwnedEntry:
    match = (Match(field="protocol", value=6), Match(field="port", value=first, high=last))
    params = (("port_class", number),)
    table, action = "destination_port_class", "set_destination_port_class"
    return owned_entry(table=table, match=match, priority=1, action=action, params=params, owner=OWNER)


def attach(port: int, policy_class: int) -> OwnedEntry:
    match = (Match(field="ingress_port", value=port), Match(field="vlan_id", value=0))
    params = (("vrf", 3), ("policy_class", policy_class))
    return owned_entry(table="attachment", match=match, action="attach", params=params, owner="networks/n")


STATE = (
    next_hop(1),
    route("5f00:1::/32", 1),
    route("::ffff:10.1.0.0/120", 1, vrf=3),
    permit(3, 17),
    port_class(443, 443, 2),
    attach(2, 3),
)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short: the path of a socket has at most 107 characters."""
    path = Path(tempfile.mkdtemp(prefix="stitch-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def node(directory: Path) -> AsyncIterator[FakeNode]:
    node = FakeNode(
        "se1",
        directory / "se1",
        ports=(PortConfig(number=1, interface="eth1", role=PortRole.FABRIC),),
        borders=(
            BorderConfig(name="s-t", port=9, interface="eth9", address="192.0.2.1/30", listen_port=51820, mtu=1420),
        ),
    )
    await node.start()
    yield node
    await node.stop()


def channel_to(node: FakeNode) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(node.agent, options=CHANNEL_OPTIONS)


@pytest.fixture
async def client(node: FakeNode) -> AsyncIterator[P4RuntimeClient]:
    channel = channel_to(node)
    client = P4RuntimeClient("se1", channel, CODEC, 100)
    await client.become_primary()
    await client.ensure_pipeline()
    yield client
    client.close()
    await channel.close()


def as_entry(entry: TableEntry) -> OwnedEntry:
    match = tuple(
        Match(field=m.field, value=m.value, mask=m.mask, prefix_length=m.prefix_length, high=m.high)
        for m in entry.match
    )
    return owned_entry(
        table=entry.table,
        match=match,
        priority=entry.priority,
        action=entry.action,
        params=entry.params,
        owner=OWNER,
    )


# ---- codec and difference


@settings(max_examples=300, deadline=None)
@given(table_entries())
def test_what_is_composed_parses_back(entry: TableEntry) -> None:
    ours = as_entry(entry)
    row = CODEC.parse(CODEC.compose(ours))
    assert row == Row(key=key(ours), behaviour=behaviour(ours))


@pytest.mark.parametrize(
    ("number", "bitwidth", "expected"),
    [(0, 9, b"\0"), (1, 128, b"\1"), (256, 9, b"\1\0"), (0x5F00 << 112, 128, b"\x5f" + bytes(15))],
)
def test_octets_are_canonical(number: int, bitwidth: int, expected: bytes) -> None:
    assert octets(number, bitwidth) == expected


@pytest.mark.parametrize(("number", "bitwidth"), [(512, 9), (-1, 9)])
def test_what_does_not_fit_is_refused(number: int, bitwidth: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        octets(number, bitwidth)


def test_every_table_of_the_p4info_has_its_step() -> None:
    assert {table for step in STEPS for table in step} == {table.name for table in p4info.load().tables}


def test_what_an_entry_refers_to_is_written_before_it() -> None:
    """As the pipeline's source says (`@refers_to`)."""
    step_of = {table: step for step, tables in enumerate(STEPS) for table in tables}
    referred = 0
    for table in p4info.load().tables:
        for param in (param for action in table.actions for param in action.params):
            for target, _ in param.refers_to:
                assert step_of[target] < step_of[table.name], (target, table.name)
                referred += 1
    assert referred > 10


def test_new_comes_before_changed_before_gone_and_leaders_after_what_they_lead_to() -> None:
    desired, _ = index((next_hop(1), route("5f00:1::/32", 1), permit(3, 1), attach(1, 3), route("5f00:9::/32", 2)))
    gone = (next_hop(7), route("5f00:7::/32", 7), attach(7, 3), permit(4, 1))
    changed = route("5f00:9::/32", 1)
    present = {key(entry): Row(key=key(entry), behaviour=behaviour(entry)) for entry in (*gone, changed)}
    order = [(u.operation, u.key[0]) for batch in batches(difference(desired, present)) for u in batch]
    assert order == [
        (Operation.INSERT, "next_hop"),
        (Operation.INSERT, "route"),
        (Operation.INSERT, "flow_policy"),
        (Operation.INSERT, "attachment"),
        (Operation.MODIFY, "route"),
        (Operation.DELETE, "attachment"),
        (Operation.DELETE, "flow_policy"),
        (Operation.DELETE, "route"),
        (Operation.DELETE, "next_hop"),
    ]


def test_a_batch_has_at_most_its_size() -> None:
    updates = difference(index(next_hop(n) for n in range(25))[0], {})
    assert [len(batch) for batch in batches(updates, size=10)] == [10, 10, 5]


def test_of_two_owners_that_want_different_things_of_one_key_the_first_has_it() -> None:
    first = route("5f00:1::/32", 1, "intents/a")
    indexed, refused = index((first, route("5f00:1::/32", 2, "intents/b")))
    assert list(indexed.values()) == [first]
    assert [refusal.part for refusal in refused] == ["intents/b"]
    assert "route(vrf=0, destination=5f00:1::/32): intents/a and intents/b" in refused[0].reason


# ---- the driver


async def test_a_node_gets_what_it_shall_have_and_the_second_time_nothing(
    node: FakeNode, client: P4RuntimeClient
) -> None:
    report = await client.sync(STATE)
    assert report.writes == len(STATE)
    assert {key(as_entry(e)) for entries in node.all_entries().values() for e in entries} == {key(e) for e in STATE}
    node.writes, node.batches = 0, []
    report = await client.sync(STATE)
    assert (report.writes, report.deviations) == (0, ())
    assert (node.writes, node.batches) == (0, [])


async def test_only_differences_are_written(node: FakeNode, client: P4RuntimeClient) -> None:
    await client.sync(STATE)
    node.writes = 0
    changed = (*STATE[:1], route("5f00:1::/32", 2), *STATE[2:], next_hop(2))
    assert (await client.sync(changed)).writes == 2
    assert node.writes == 2


async def test_nothing_desired_leaves_nothing(node: FakeNode, client: P4RuntimeClient) -> None:
    await client.sync(STATE)
    assert (await client.sync(())).writes == len(STATE)
    assert not any(node.all_entries().values())


async def test_random_states_follow_each_other(node: FakeNode, client: P4RuntimeClient) -> None:
    """Set any, then any other: the node has exactly the last."""
    chance = random.Random(7)
    pool = [next_hop(n) for n in range(1, 9)]
    pool += [route(f"5f00:{n}::/32", 1 + n % 3) for n in range(8)]
    pool += [permit(n % 3, n, priority=1 + n) for n in range(8)]
    pool += [port_class(100 * n, 100 * n + 50, n) for n in range(8)]
    for _ in range(20):
        wanted = {key(entry): entry for entry in chance.sample(pool, chance.randrange(len(pool)))}
        for each in list(wanted.values()):
            if each.table == "route" and chance.random() < 0.5:
                wanted[key(each)] = owned_entry(
                    table="route", match=each.match, action="set_next_hop", params=(("next_hop", 9),), owner=OWNER
                )
        await client.sync(tuple(wanted.values()))
        present = {key(as_entry(e)): e for entries in node.all_entries().values() for e in entries}
        assert {k: (e.action, e.params) for k, e in present.items()} == {k: behaviour(e) for k, e in wanted.items()}


async def test_deltas_lead_where_states_do(node: FakeNode, client: P4RuntimeClient) -> None:
    """Also where somebody else writes in between: what a delta then meets is found to be other than it was."""
    chance = random.Random(8)
    pool = [next_hop(n) for n in range(1, 13)] + [route(f"5f00:{n}::/32", 1 + n % 3) for n in range(12)]
    pool += [route(f"5f00:{n}::/32", 9, owner="links/z") for n in range(12)]
    entries, present_entries = NodeEntries(), list[OwnedEntry]()
    await client.sync(())
    for number in range(60):
        old = [entry for entry in present_entries if chance.random() < 0.3]
        present_entries = [entry for entry in present_entries if entry not in old]
        there = {key(entry) for entry in present_entries}
        new = [*{key(entry): entry for entry in chance.sample(pool, 9) if key(entry) not in there}.values()]
        present_entries += new
        entries, put, gone = entries.changed(old, new)
        if number % 10 == 9:
            node.tables.clear()
        node.reads.clear()
        report = await client.sync(entries, delta=Delta(since=number, put=put, gone=gone), read_back=False)
        assert number % 10 == 9 or (report.writes, node.reads) == (len(put) + len(gone), [])
        if number % 10 == 9:
            await client.sync(entries)
        present = {
            key(as_entry(e)): (e.action, e.params)
            for entries_of_table in node.all_entries().values()
            for e in entries_of_table
        }
        assert present == {key(entry): behaviour(entry) for entry in entries}


async def test_tampering_is_found_named_and_repaired(node: FakeNode, client: P4RuntimeClient) -> None:
    await client.sync(STATE)
    routes, hops = node.maps["route"], node.maps["next_hop"]
    fabric = next(each for each in routes.data if b"\x5f\x00\x00\x01" in each)
    value = routes.data.pop(fabric)
    routes.data[fabric.replace(b"\x5f\x00\x00\x01", b"\x5f\x00\x0b\xad")] = value
    hop = hops.data[(1).to_bytes(4, "little")]
    hops.update((1).to_bytes(4, "little"), hop.replace(b"\x02\x00\x00\x00\x00\x02", b"\x02\x00\x00\x00\x00\x66"))
    report = await client.sync(STATE)
    deviations = {(d.what, d.table, d.owner) for d in report.deviations}
    assert deviations == {("missing", "route", OWNER), ("changed", "next_hop", "links/a-b"), ("foreign", "route", "")}
    foreign = next(d for d in report.deviations if d.what == "foreign")
    assert foreign.detail == "route(vrf=0, destination=5f00:bad::/32) -> set_next_hop(next_hop=1)"
    assert (await client.sync(STATE)).writes == 0


async def test_tables_whose_digests_are_the_same_are_read_in_turn_only(node: FakeNode, client: P4RuntimeClient) -> None:
    for _ in range(2):  # written, then verified
        await client.sync(STATE, digests=node.digests())
    node.reads.clear()
    node.calls.clear()
    for _ in range(2 * TURN):
        assert (await client.sync(STATE, digests=node.digests())).writes == 0
    assert len(node.reads) == len(node.calls) == 2
    routes = node.maps["route"].data
    node.reads.clear()
    routes.pop(next(each for each in routes if b"\x5f\x00\x00\x01" in each))
    report = await client.sync(STATE, digests=node.digests())
    assert [(deviation.what, deviation.table) for deviation in report.deviations] == [("missing", "route")]
    assert "route" in node.reads
    assert len(node.reads) <= 2
    # What was written, by whomever, is not as it was verified, also where it looks the same again.
    await client.sync(STATE, digests=node.digests())
    before = node.digests()
    await client.sync((*STATE, next_hop(2)), read_back=False)
    del node.maps["next_hop"].data[(2).to_bytes(4, "little")]
    node.maps["next_hop"].data[(2).to_bytes(4, "little")] = bytes(node.maps["next_hop"].value_size)
    report = await client.sync((*STATE, next_hop(2)), digests=before)
    assert [(deviation.what, deviation.table) for deviation in report.deviations] == [("missing", "next_hop")]


async def test_without_reading_back_only_differences_to_what_was_seen_are_written(
    node: FakeNode, client: P4RuntimeClient
) -> None:
    await client.sync(STATE, read_back=False)  # nothing was seen yet: it is read
    node.writes = 0
    assert (await client.sync((*STATE, next_hop(2)), read_back=False)).writes == 1
    assert (await client.sync(STATE, read_back=False)).writes == 1
    assert node.writes == 2
    assert (await client.sync(STATE)).writes == 0


async def test_what_was_tampered_with_is_read_when_a_write_meets_it(node: FakeNode, client: P4RuntimeClient) -> None:
    await client.sync(STATE)
    node.tables.clear()
    await client.sync(STATE[1:], read_back=False)  # deletes what is not there any more
    assert {key(as_entry(e)) for entries in node.all_entries().values() for e in entries} == {key(e) for e in STATE[1:]}


async def test_a_refused_entry_is_named_with_its_owner_and_the_rest_is_written(
    node: FakeNode, client: P4RuntimeClient
) -> None:
    with pytest.raises(TargetRejected, match=r"se1 refused insert next_hop\(next_hop=5000\).*links/a-b: out_of_range"):
        await client.sync((*STATE, next_hop(5000)))
    assert len(node.entries("route")) == 2
    assert len(node.entries("attachment")) == 1


async def test_an_entry_that_the_p4info_has_not_is_named(client: P4RuntimeClient) -> None:
    wrong = owned_entry(table="route", match=(Match(field="colour", value=1),), action="set_next_hop", owner=OWNER)
    with pytest.raises(TargetRejected, match=r"'colour'.*owner intents/orders"):
        await client.sync((wrong,))


async def test_many_entries_go_in_batches_and_come_back_in_chunks(node: FakeNode, client: P4RuntimeClient) -> None:
    many = tuple(route(f"5f00:{n:x}::/32", 1 + n % 4000) for n in range(3500))
    assert (await client.sync(many)).writes == 3500
    assert [len(batch) for batch in node.batches] == [1, 1, 1, 1]
    assert (await client.sync(many)).writes == 0


async def test_who_has_much_to_say_may_take_longer(client: P4RuntimeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    await client.sync(STATE)
    monkeypatch.setattr(p4runtime, "READ_S_MAX", 0.0)
    monkeypatch.setattr(p4runtime, "ENTRIES_S_MIN", len(STATE) / LIMIT_S)
    assert len(await client.read()) == len(STATE)
    monkeypatch.setattr(p4runtime, "ENTRIES_S_MIN", 1e9)
    with pytest.raises(TargetUnreachable, match=r"only \d+ entries read within 0 s"):
        await client.read()


@pytest.mark.parametrize(
    ("times", "each", "why"),
    [
        (2, 2, "an entry twice"),
        (50_000, 50_000, "an entry twice"),
        (200_000, 200_000, "larger than max"),
        (1_000_000, 2000, "more entries"),
    ],
)
async def test_a_node_that_says_an_entry_again_and_again_holds_up_nobody(
    client: P4RuntimeClient, node: FakeNode, monkeypatch: pytest.MonkeyPatch, times: int, each: int, why: str
) -> None:
    await client.sync(STATE)
    honest = node.service._reader.read

    def read(entities: object) -> object:
        answer = honest(entities)  # type: ignore[arg-type]
        entity = next(entity for response in answer.responses() for entity in response.entities)
        if why == "more entries":
            entity.table_entry.is_default_action = True  # which may be said again
        response = p4r.ReadResponse(entities=[entity] * each)
        return SimpleNamespace(faults=(), responses=lambda: (response for _ in range(times // each)))

    monkeypatch.setattr(node.service._reader, "read", read)
    with pytest.raises(TargetRejected, match=why):
        await client.read()


async def test_of_many_differences_some_are_told_one_by_one(node: FakeNode, client: P4RuntimeClient) -> None:
    """A node that says what it likes fills neither the log nor the time of who reads it. What lacks comes first."""
    await client.sync(STATE)
    many = tuple(route(f"5f00:{n:x}::/32", 1) for n in range(0x100, 0x100 + 3 * DEVIATIONS_TOLD))
    await client.sync((*STATE, *many))
    routes = node.maps["route"].data
    del routes[next(each for each in routes if b"\x5f\x00\x00\x01" in each)]
    report = await client.sync(STATE)
    assert len(report.deviations) == DEVIATIONS_TOLD + 1
    assert report.deviations[0].what == "missing" and report.deviations[-2].what == "foreign"
    assert report.deviations[-1].detail == f"and {report.writes - DEVIATIONS_TOLD} entries more"
    assert (await client.sync(STATE)).writes == 0


@pytest.mark.parametrize("size", [-1, 2**20 + 1, 2**62])
async def test_a_node_does_not_say_that_it_has_room_without_end(
    client: P4RuntimeClient, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    pipeline = client._pipeline

    async def lying() -> p4r.ForwardingPipelineConfig:
        config = await pipeline()
        config.p4info.tables[3].size = size
        return config

    monkeypatch.setattr(client, "_pipeline", lying)
    with pytest.raises(TargetRejected, match=f"node se1: .* has room for {size}"):
        await client.ensure_pipeline()


async def test_a_pipeline_that_is_right_is_not_pushed_again(node: FakeNode, client: P4RuntimeClient) -> None:
    await client.sync(STATE)
    again = P4RuntimeClient("se1", channel_to(node), CODEC, 102)
    await again.become_primary()
    sizes = await again.ensure_pipeline()
    assert sizes["local_sid"] == SIZES.local_sids < CODEC.p4info.table_by_name["local_sid"].size, "as the node says"
    assert (await again.sync(STATE)).writes == 0
    again.close()


async def test_the_newer_controller_leads_and_the_older_is_told(node: FakeNode, client: P4RuntimeClient) -> None:
    holding = asyncio.ensure_future(client.hold())
    newer = P4RuntimeClient("se1", channel_to(node), CODEC, 200)
    await newer.become_primary()
    with pytest.raises(TargetUnreachable, match="another controller leads it"):
        await asyncio.wait_for(holding, LIMIT_S)
    with pytest.raises(TargetRejected, match="permission_denied"):
        await client.sync(STATE)
    older = P4RuntimeClient("se1", channel_to(node), CODEC, 150)
    with pytest.raises(TargetUnreachable, match="election id 200, ours 150"):
        await older.become_primary()
    newer.close()


async def test_after_a_clock_that_ran_ahead_we_still_lead(node: FakeNode) -> None:
    """The node has seen a higher id, but nobody leads it now."""
    ahead = P4RuntimeClient("se1", channel_to(node), CODEC, 10_000)
    await ahead.become_primary()
    await ahead.ensure_pipeline()
    ahead.close()
    await until(lambda: not node.service._arbitration.primaries(), "nobody leads")
    client = P4RuntimeClient("se1", channel_to(node), CODEC, 5)
    await client.become_primary()
    assert (await client.sync(STATE)).writes == len(STATE)
    client.close()


async def test_a_counter_is_read(node: FakeNode, client: P4RuntimeClient) -> None:
    node.drop_counter.update((6).to_bytes(4, "little"), b"".join(n.to_bytes(8, "little") for n in (2, 200, 3, 300)))
    assert [(s.index, s.packets, s.bytes) for s in await client.read_counter("drop_counter")] == [(6, 5, 500)]


async def test_a_node_that_is_not_there_is_unreachable(directory: Path) -> None:
    client = P4RuntimeClient("se1", grpc.aio.insecure_channel(f"unix:{directory}/none"), CODEC, 1)
    with pytest.raises(TargetUnreachable, match="node se1"):
        await client.become_primary()


# ---- sessions


@dataclass
class Events:
    all: list[NodeDescribed | NodeUnreachable | NodeSynced | NodeRejected] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def __call__(self, event: NodeDescribed | NodeUnreachable | NodeSynced | NodeRejected) -> None:
        async with self.arrived:
            self.all.append(event)
            self.arrived.notify_all()

    async def next(self, kind: type, count: int = 1):  # type: ignore[no-untyped-def]
        """The `count`th of that kind."""
        async with asyncio.timeout(LIMIT_S), self.arrived:
            await self.arrived.wait_for(lambda: sum(isinstance(e, kind) for e in self.all) >= count)
        return [e for e in self.all if isinstance(e, kind)][count - 1]


@dataclass
class Running:
    nodes: Nodes
    events: Events
    telemetry: list[str]


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    events, telemetry = Events(), list[str]()
    ids = iter(range(1000, 2000))
    context = SessionContext(
        codec=CODEC,
        next_election_id=ids.__next__,
        report=events,
        observe=lambda node, batch: telemetry.append(node),
        domain="shop",
    )
    stop = asyncio.Event()
    ready: asyncio.Future[Nodes] = asyncio.get_running_loop().create_future()

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            nodes = Nodes(tasks, context)
            ready.set_result(nodes)
            await stop.wait()
            for name in nodes.names():
                nodes.disconnect(name)

    task = asyncio.ensure_future(run())
    yield Running(await ready, events, telemetry)
    stop.set()
    await task


def sync(generation: int, entries: tuple[OwnedEntry, ...], host: HostState = NOTHING, audit: bool = False) -> SyncNode:
    return SyncNode(
        node="se1",
        generation=generation,
        state=NodeState(entries=NodeEntries(entries), host=host),
        audit=audit,
    )


TUNNEL = Tunnel(border="s-t", peer_public_key="key", peer_endpoint="192.0.2.2:51820", allowed_ips=("5f00:2::/32",))


async def test_a_session_describes_then_syncs(node: FakeNode, running: Running) -> None:
    running.nodes.connect("se1", node.agent)
    described = await running.events.next(NodeDescribed)
    assert described.description.borders[0].kernel_mac == "02:00:00:00:01:09"
    running.nodes.sync(sync(1, STATE))
    synced = await running.events.next(NodeSynced)
    assert (synced.generation, synced.writes, synced.deviations) == (1, len(STATE), ())
    running.nodes.sync(sync(2, STATE, audit=True))
    assert (await running.events.next(NodeSynced, 2)).writes == 0
    assert running.nodes.fault("se1") == ""


async def test_tunnels_come_before_the_entries_and_go_after_them(node: FakeNode, running: Running) -> None:
    entries_at_sync: list[tuple[int, int]] = []
    node.host.on_sync = lambda state: entries_at_sync.append((len(state.tunnels), len(node.entries("route"))))
    running.nodes.connect("se1", node.agent)
    running.nodes.sync(sync(1, STATE, HostState(tunnels=(TUNNEL,))))
    assert (await running.events.next(NodeSynced)).writes == len(STATE) + 1
    running.nodes.sync(sync(2, (), HostState()))
    await running.events.next(NodeSynced, 2)
    assert entries_at_sync == [(1, 0), (0, 0)]
    assert (await running.events.next(NodeDescribed, 2)).description.borders[0].up


async def test_probes_change_after_the_entries(node: FakeNode, running: Running) -> None:
    """What they say of the paths of before holds until nothing takes these any more."""
    probes = tuple(
        Probe(port=port, source="5f00:1:1::", containers=("5f00:1:2:1::",), interval_ms=10, liveness_group=7, slot=0)
        for port in (1, 2)
    )
    seen: list[tuple[tuple[Probe, ...], int]] = []
    node.host.on_sync = lambda state: seen.append((state.probes, len(node.entries("route"))))
    routes = len([entry for entry in STATE if entry.table == "route"])
    running.nodes.connect("se1", node.agent)
    running.nodes.sync(sync(1, STATE, HostState(probes=probes[:1])))
    await running.events.next(NodeSynced)
    running.nodes.sync(sync(2, (), HostState(probes=probes[1:])))
    await running.events.next(NodeSynced, 2)
    assert seen == [(probes[:1], routes), (probes[1:], 0)]
    running.nodes.sync(sync(3, (), HostState(probes=probes[1:]), audit=True))
    assert (await running.events.next(NodeSynced, 3)).writes == 0
    assert node.host.state.probes == probes[1:]


async def test_an_audit_names_what_was_changed_behind_our_back(node: FakeNode, running: Running) -> None:
    running.nodes.connect("se1", node.agent)
    running.nodes.sync(sync(1, STATE, HostState(gateways=(Gateway(port=2, ipv4="10.1.0.1"),))))
    await running.events.next(NodeSynced)
    node.host.state = HostState()
    node.tables.clear()
    running.nodes.sync(sync(2, STATE, HostState(gateways=(Gateway(port=2, ipv4="10.1.0.1"),)), audit=True))
    synced = await running.events.next(NodeSynced, 2)
    assert synced.writes == len(STATE) + 1
    assert {d.owner for d in synced.deviations} == {OWNER, "links/a-b", "networks/n", "nodes/se1"}
    assert {d.what for d in synced.deviations if d.table != "host"} == {"missing"}


async def test_an_audit_that_finds_nothing_new_is_not_told(node: FakeNode, running: Running) -> None:
    running.nodes.connect("se1", node.agent)
    running.nodes.sync(sync(1, STATE))
    await running.events.next(NodeSynced)
    for audits in range(1, 4):
        running.nodes.sync(sync(1, STATE, audit=True))
        await until(lambda n=audits: node.calls.count("/netstitch.Host/Audit") == n, "the audit")
    node.tables.clear()
    running.nodes.sync(sync(1, STATE, audit=True))
    assert len((await running.events.next(NodeSynced, 2)).deviations) == len(STATE)
    node.host.refusal = "WireGuard does not answer"
    running.nodes.sync(sync(1, STATE, audit=True))
    await running.events.next(NodeRejected)
    node.host.refusal = ""
    running.nodes.sync(sync(1, STATE, audit=True))  # that all is well again is news
    assert (await running.events.next(NodeSynced, 3)).writes == 0


async def test_an_audit_tells_what_changed_by_itself(node: FakeNode, running: Running) -> None:
    running.nodes.connect("se1", node.agent)
    running.nodes.sync(sync(1, STATE))
    before = (await running.events.next(NodeDescribed)).description
    await running.events.next(NodeSynced)
    assert all(port.carrier for port in before.ports)
    node.host.without_carrier = frozenset({before.ports[0].number})
    running.nodes.sync(sync(2, STATE, audit=True))
    after = (await running.events.next(NodeDescribed, 2)).description
    assert [port.carrier for port in after.ports] == [False, *(True for _ in after.ports[1:])]
    running.nodes.sync(sync(3, STATE, audit=True))
    assert (await running.events.next(NodeSynced, 3)).writes == 0
    assert len([event for event in running.events.all if isinstance(event, NodeDescribed)]) == 2


async def test_a_carrier_that_is_lost_is_told_without_an_audit(node: FakeNode, running: Running) -> None:
    running.nodes.connect("se1", node.agent)
    before = (await running.events.next(NodeDescribed)).description
    for lost in (frozenset({before.ports[0].number}), frozenset[int]()):
        node.host.without_carrier = lost
        after = (await running.events.next(NodeDescribed, 2 if lost else 3)).description
        assert {port.number for port in after.ports if not port.carrier} == lost
    assert len([event for event in running.events.all if isinstance(event, NodeDescribed)]) == 3


async def test_a_refusal_of_the_host_does_not_keep_entries_from_going(node: FakeNode, running: Running) -> None:
    running.nodes.connect("se1", node.agent)
    running.nodes.sync(sync(1, STATE))
    await running.events.next(NodeSynced)
    node.host.refusal = "wireguard-go is not installed"
    running.nodes.sync(sync(2, (), HostState(tunnels=(TUNNEL,))))
    rejected = await running.events.next(NodeRejected)
    assert rejected.generation == 2
    assert "wireguard-go is not installed" in rejected.reason
    assert not any(node.all_entries().values())


async def test_a_refusal_says_whom_it_concerns(node: FakeNode, running: Running) -> None:
    """Of entries their owners; of the host what it has not got, so that what needs none of that can go on."""
    running.nodes.connect("se1", node.agent)
    broken = msgspec.structs.replace(next_hop(5000), owner="links/broken")
    running.nodes.sync(sync(1, (*STATE, broken)))
    refused = (await running.events.next(NodeRejected)).refused or ()
    assert [refusal.part for refusal in refused] == ["links/broken"]
    node.host.refusal = "wireguard-go is not installed"
    running.nodes.sync(sync(2, STATE, HostState(tunnels=(TUNNEL,), gateways=(Gateway(port=1, ipv4="10.1.0.1"),))))
    rejected = await running.events.next(NodeRejected, 2)
    assert sorted(refusal.part for refusal in rejected.refused or ()) == ["ports/1", "tunnels/s-t"]


async def test_the_newest_of_those_that_wait_is_made(node: FakeNode, running: Running) -> None:
    running.nodes.connect("se1", node.agent)
    for generation in range(1, 20):
        running.nodes.sync(sync(generation, STATE[: generation % 6]))
    running.nodes.sync(sync(3, ()))  # late and old
    running.nodes.sync(sync(20, STATE))
    while (await running.events.next(NodeSynced, len(running.events.all) or 1)).generation != 20:
        pass
    assert len(node.entries("attachment")) == 1


async def test_a_session_writes_deltas_and_puts_those_together_that_wait(node: FakeNode, running: Running) -> None:
    running.nodes.connect("se1", node.agent)
    await running.events.next(NodeDescribed)
    running.nodes.sync(sync(1, STATE))
    await running.events.next(NodeSynced)
    node.reads.clear()
    states = [STATE, (*STATE, next_hop(2)), (*STATE, next_hop(2), next_hop(3)), (*STATE, next_hop(3))]
    deltas = [
        Delta(since=1, put=(next_hop(2),)),
        Delta(since=2, put=(next_hop(3),)),
        Delta(since=3, gone=(next_hop(2),)),
    ]
    for delta, state in zip(deltas, states[1:], strict=True):
        running.nodes.sync(msgspec.structs.replace(sync(delta.since + 1, state), delta=delta))
    assert (await running.events.next(NodeSynced, 2)).generation == 4
    assert not node.reads
    assert len(node.entries("next_hop")) == 2
    missed = msgspec.structs.replace(sync(9, STATE), delta=Delta(since=8))
    running.nodes.sync(missed)  # it has not got generation 8: all is compared
    assert (await running.events.next(NodeSynced, 3)).writes == 1
    assert len(node.entries("next_hop")) == 1


async def test_a_node_that_is_away_gets_the_newest_state_when_it_is_back(node: FakeNode, running: Running) -> None:
    running.nodes.connect("se1", node.agent)
    await running.events.next(NodeDescribed)
    await node.stop()
    unreachable = await running.events.next(NodeUnreachable)
    assert "node se1" in unreachable.reason
    running.nodes.sync(sync(1, ()))
    running.nodes.sync(sync(2, STATE))
    await node.start()
    assert (await running.events.next(NodeSynced)).generation == 2
    assert len(node.entries("route")) == 2


async def test_an_agent_that_restarts_is_taken_up_and_nothing_is_written(node: FakeNode, running: Running) -> None:
    running.nodes.connect("se1", node.agent)
    running.nodes.sync(sync(1, STATE))
    await running.events.next(NodeSynced)
    await node.stop()
    await node.start()
    node.writes = 0
    await running.events.next(NodeDescribed, 2)
    running.nodes.sync(sync(2, STATE))
    assert (await running.events.next(NodeSynced, 2)).writes == 0
    assert node.writes == 0


async def test_a_node_that_was_never_there_is_reported_once(
    directory: Path, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def pause_s(low_s: float, high_s: float) -> float:
        pauses.append(high_s)
        return 0.01

    monkeypatch.setattr(session_module, "random", SimpleNamespace(uniform=pause_s))
    running.nodes.connect("se1", f"unix:{directory}/none")
    await running.events.next(NodeUnreachable)
    await until(lambda: len(pauses) > 3, "it is tried again and again")
    assert len(running.events.all) == 1
    with pytest.raises(TargetUnreachable, match="node se1"):
        await running.nodes.flows("se1")


async def test_an_agent_at_a_port_needs_tls(running: Running) -> None:
    running.nodes.connect("se1", "127.0.0.1:9")
    assert "agent_tls" in (await running.events.next(NodeUnreachable)).reason


async def test_telemetry_arrives(node: FakeNode, running: Running) -> None:
    running.nodes.connect("se1", node.agent)
    await until(lambda: running.telemetry, "telemetry")
    assert running.telemetry[0] == "se1"
    assert running.nodes.telemetry_fault("se1") == ""
    assert (await running.nodes.flows("se1")).flows == ()


# ---- nodes that say what cannot be


def described(node: FakeNode, change: Callable[[dict[str, Any]], object]) -> Callable[[], Awaitable[Any]]:
    """What the node would say of itself, with a change in it."""

    async def describe() -> dict[str, Any]:
        said = msgspec.to_builtins(await FakeHost.describe(node.host))
        change(said)
        return said

    return describe


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda said: said["ports"][0].update(mac="zz:zz"), "no MAC address"),
        (lambda said: said["ports"][0].update(mac="02:00:00:00:00:01\n"), "matching regex"),
        (lambda said: said.update(ports=said["ports"] * 2), "a port is there twice"),
        (lambda said: said.update(ports=said["ports"] * 4_000), "length <= 511"),
        (lambda said: said["ports"][0].update(number=-(10**18)), ">= 1"),
        (lambda said: said["ports"][0].update(mtu=2**64 - 1), "<= 4294967295"),
        (lambda said: said["borders"][0].update(latest_handshake_s=float("nan")), ">= 0"),
        (lambda said: said["borders"][0].update(endpoint="192.0.2.5:+51820"), "no port"),
        (lambda said: said["borders"][0].update(public_key="key"), "base64"),
        (lambda said: said["borders"][0].update(name="x\npublic_key=0"), "matching regex"),
        (lambda said: said.update(software=b"\xed\xa0\x80"), "Expected `str`"),
        (lambda said: said.clear(), "missing required field"),
    ],
)
async def test_what_no_node_can_be_ends_the_session_alone(  # type: ignore[no-untyped-def]
    directory: Path, running: Running, change, reason: str
) -> None:
    ports = tuple(PortConfig(number=n, interface=f"e{n}", role=PortRole.ATTACHMENT) for n in (1, 2))
    border = BorderConfig(name="s-t", port=9, interface="u", address="192.0.2.1/30", listen_port=51820, mtu=1420)
    liar, honest = (FakeNode(name, directory / name, ports, (border,)) for name in ("se1", "sg1"))
    liar.host.describe = described(liar, change)  # type: ignore[method-assign]
    try:
        for node in (liar, honest):
            await node.start()
            running.nodes.connect(node.name, node.agent)
        event = await running.events.next(NodeUnreachable)
        assert event.node == "se1" and reason in event.reason
        assert (await running.events.next(NodeDescribed)).node == "sg1"
        liar.host.describe = lambda: FakeHost.describe(liar.host)  # type: ignore[method-assign]
        assert (await running.events.next(NodeDescribed, 2)).node == "se1"
    finally:
        await liar.stop()
        await honest.stop()


async def test_a_session_that_raises_ends_alone_and_says_why(node: FakeNode, running: Running) -> None:
    """Whatever of ours does not hold what a node says: here what looks at its telemetry."""

    def fail(name: str, batch: TelemetryBatch) -> None:
        raise OverflowError("cannot convert float infinity to integer")

    running.nodes._context = dataclasses.replace(running.nodes._context, observe=fail)
    running.nodes.connect("se1", node.agent)
    event = await running.events.next(NodeUnreachable)
    assert "cannot be worked on" in event.reason and "OverflowError: cannot convert" in event.reason


LARGEST = 2**128 - 1


async def test_the_largest_election_id_locks_nobody_out(node: FakeNode, running: Running) -> None:
    """A client with it leads: who cannot, and why, is told. It leaves: we lead again, also in the sessions after."""
    thief = P4RuntimeClient("se1", channel_to(node), CODEC, LARGEST)
    await thief.become_primary()
    await thief.ensure_pipeline()
    running.nodes.connect("se1", node.agent)
    event = await running.events.next(NodeUnreachable)
    assert f"another controller leads it (election id {LARGEST}, ours 1000)" in event.reason
    thief.close()
    await running.events.next(NodeDescribed)
    await node.stop()
    await running.events.next(NodeUnreachable, 2)
    await node.start()
    await running.events.next(NodeDescribed, 2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda row: setattr(row.match[0].exact, "value", bytes(10**6) + b"\x01"), "more than 16 bits"),
        (lambda row: setattr(row.match[0].exact, "value", b"\xff" * 5), "more than 16 bits"),
        (lambda row: setattr(row.match[1].lpm, "prefix_len", 129), "prefix of 129 bits"),
        (lambda row: setattr(row.match[1].lpm, "prefix_len", -1), "prefix of -1 bits"),
        (lambda row: setattr(row.match[1], "field_id", 1), "a field twice"),
        (lambda row: setattr(row.match[1], "field_id", 77), "with id 77"),
        (lambda row: setattr(row, "table_id", 77), "an entry of table 0x4d"),
        (lambda row: setattr(row.action.action, "action_id", 77), "with id 77"),
        (lambda row: setattr(row.action.action.params[0], "value", b"\xff" * 40), "more than 16 bits"),
        (lambda row: row.action.action.params.pop(), "with id 1"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(change, reason: str) -> None:  # type: ignore[no-untyped-def]
    row = CODEC.compose(route("5f00:2::/32", 3))
    CODEC.parse(row)
    change(row)
    with pytest.raises(TargetRejected, match=reason):
        CODEC.parse(row)
