"""LLDP: frames against scapy's reading of them, frames that lie, and what becomes of what is heard in the picture."""

import itertools
import random
import struct

import pytest
from msgspec.structs import replace
from scapy.contrib.lldp import LLDPDU, LLDPDUChassisID, LLDPDUPortID, LLDPDUSystemName, LLDPDUTimeToLive
from scapy.layers.l2 import Ether

from controller.model.discovery import LldpCounts, RemoteSystem, Source, Statement, prevailing
from controller.model.event import Discovered, NodeUnreachable
from controller.southbound.lldp import (
    FRAMES_AT_ONCE_MAX,
    MSG_TX_INTERVAL_S,
    REMOTE_SYSTEMS_MAX,
    TTL_S,
    TX_FAST_INIT,
    LldpAgent,
    Lldpdu,
    Malformed,
    decode,
    encode,
)
from controller.views import doctor
from dataplane.host_api import PortRole
from tests.simulator import World

MAC = bytes.fromhex("020000000001")
SAID = Lldpdu(chassis_id="shop/sg1", port_id="2", ttl_s=121, port_description="eth2", system_name="sg1")
HEADER = bytes.fromhex("0180c200000e 020000000001 88cc")


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!H", kind << 9 | len(value)) + value


CHASSIS, PORT, TTL, END = tlv(1, b"\x07a"), tlv(2, b"\x071"), tlv(3, b"\0\x78"), b"\0\0"


def test_scapy_reads_what_we_send_and_we_read_what_scapy_sends() -> None:
    frame = Ether(encode(MAC, SAID))
    assert (frame.dst, frame.type) == ("01:80:c2:00:00:0e", 0x88CC)
    assert (frame[LLDPDUChassisID].subtype, frame[LLDPDUChassisID].id) == (7, b"shop/sg1")
    assert (frame[LLDPDUPortID].subtype, frame[LLDPDUPortID].id) == (7, b"2")
    assert (frame[LLDPDUTimeToLive].ttl, frame[LLDPDUSystemName].system_name) == (121, b"sg1")
    theirs = (
        Ether(dst="01:80:c2:00:00:0e", type=0x88CC)
        / LLDPDUChassisID(subtype=4, id="02:00:00:00:00:09")
        / LLDPDUPortID(subtype=5, id=b"eth0")
        / LLDPDUTimeToLive(ttl=20)
        / LLDPDU(tlvs := b"")
    )
    assert not tlvs
    assert decode(bytes(theirs)) == Lldpdu(chassis_id="mac:02:00:00:00:00:09", port_id="eth0", ttl_s=20)
    assert decode(encode(MAC, SAID)) == SAID


@pytest.mark.parametrize(
    "body",
    [
        b"",
        CHASSIS + PORT + b"\x06",
        CHASSIS + PORT + END,
        PORT + CHASSIS + TTL + END,
        CHASSIS + CHASSIS + PORT + TTL + END,
        CHASSIS + PORT + TTL + TTL + END,
        CHASSIS + PORT + TTL + tlv(5, b"a") + tlv(5, b"b") + END,
        tlv(1, b"\x07") + PORT + TTL + END,
        tlv(1, b"\x07" + bytes(256)) + PORT + TTL + END,
        CHASSIS + PORT + tlv(3, b"\x78") + END,
        CHASSIS + PORT + TTL + b"\x0b\xff" + bytes(20),
    ],
    ids=["empty", "half", "no ttl", "order", "twice", "ttls", "names", "no id", "long id", "short ttl", "beyond"],
)
def test_malformed_frames_are_discarded(body: bytes) -> None:
    with pytest.raises(Malformed):
        decode(HEADER + body)


def test_a_tlv_of_any_kind_and_length_is_read_or_discarded() -> None:
    whole = HEADER + CHASSIS + PORT + TTL
    for kind in range(128):
        for length in range(512):
            for present in {length, length - 1, 0}:
                head = struct.pack("!H", kind << 9 | length)
                try:
                    found = decode(whole + head + b"x" * max(present, 0) + (END if present == length else b""))
                except Malformed:
                    continue
                assert found.chassis_id == "a"
                assert len(found.system_name) <= 255
    rng = random.Random(8)
    frame = encode(MAC, SAID)
    for _ in range(20_000):
        changed = bytearray(frame[: rng.randrange(len(frame) + 1)])
        for _ in range(rng.randrange(4)):
            if changed:
                changed[rng.randrange(len(changed))] = rng.randrange(256)
        try:
            found = decode(bytes(changed))
        except Malformed:
            continue
        assert all(text.isprintable() for text in (found.chassis_id, found.port_id, found.system_name))


def agent() -> LldpAgent:
    made = LldpAgent("shop", "se1")
    made.set_ports({1: (MAC, "eth1"), 2: (MAC, "eth2")}, 0.0)
    return made


def test_four_frames_come_fast_and_then_one_every_thirty_seconds() -> None:
    made = LldpAgent("shop", "se1")
    made.set_ports({1: (MAC, "eth1")}, 0.0)
    sent = []
    while len(sent) < 8:
        now_s = made.next_s()
        for port, frame in made.due(now_s):
            assert (port, decode(frame).ttl_s) == (1, TTL_S)
            sent.append(now_s)
    gaps = [round(after - before, 3) for before, after in itertools.pairwise(sent)]
    assert gaps == [1.0] * (TX_FAST_INIT - 1) + [float(MSG_TX_INTERVAL_S)] * 4
    made.receive(1, encode(MAC, SAID), sent[-1] + 5, 1000.0)
    assert made.next_s() == sent[-1] + 6, "who is new learns of us soon"


def test_what_is_heard_ends_with_its_ttl_and_when_its_sender_goes() -> None:
    made = agent()
    assert made.receive(1, encode(MAC, SAID), 10.0, 1000.0)
    assert not made.receive(1, encode(MAC, SAID), 40.0, 1030.0), "nothing new"
    (system,) = made.remote_systems
    assert (system.port, system.node, system.node_port, system.since_s) == (1, "sg1", 2, 1000)
    assert not made.expire(40.0 + 120.0)
    assert made.expire(40.0 + 121.0)
    assert made.remote_systems == ()
    made.receive(1, encode(MAC, SAID), 200.0, 1200.0)
    gone = Lldpdu(chassis_id=SAID.chassis_id, port_id=SAID.port_id, ttl_s=0)
    assert made.receive(1, encode(MAC, gone), 201.0, 1201.0)
    assert made.remote_systems == ()
    assert made.counts.ageouts == 1


def test_ten_thousand_false_neighbours_of_a_port_leave_few_and_none_elsewhere() -> None:
    made = agent()
    made.receive(2, encode(MAC, SAID), 0.0, 1000.0)
    for number in range(10_000):
        lie = Lldpdu(chassis_id=f"shop/n{number}", port_id="1", ttl_s=65535)
        made.receive(1, encode(MAC, lie), 0.001 * number, 1000.0)
    made.receive(1, HEADER, 1000.0, 2000.0)
    made.receive(7, encode(MAC, SAID), 1000.0, 2000.0)
    assert [system.port for system in made.remote_systems] == [1] * REMOTE_SYSTEMS_MAX + [2]
    counts = made.counts
    assert counts.frames_in == 10_002, "a port that is none is not counted"
    assert counts.frames_discarded == 1
    looked_at = counts.too_many_neighbors + REMOTE_SYSTEMS_MAX
    assert FRAMES_AT_ONCE_MAX <= looked_at <= FRAMES_AT_ONCE_MAX + 4 * 10 + 1
    assert counts.too_fast == 10_000 - looked_at


# ---- in the picture


def heard(world: World, node: str, *systems: RemoteSystem) -> None:
    controller = world.controllers[world.topology.node(node).domain]
    event = Discovered(node=node, remote_systems=systems, counts=LldpCounts(frames_in=len(systems)))
    assert controller.event(event, controller.life)


def system(port: int, node: str, node_port: int) -> RemoteSystem:
    return RemoteSystem(
        port=port, chassis_id=f"transit/{node}", port_id=str(node_port), node=node, node_port=node_port, since_s=1000
    )


@pytest.fixture
def world() -> World:
    world = World()
    world.start()
    world.run(5.0)
    return world


def ends(world: World) -> dict[str, dict[str, int]]:
    """Of the declared links of transit: node to port."""
    links = world.controllers["transit"].state.inventory.links.values()
    return {link.name: {end.node: end.port for end in (link.a, link.b) if end is not None} for link in links}


def differences(world: World) -> list[str]:
    found = doctor.checks(world.controllers["transit"].state, world.now_s)
    return [row.detail for row in found if row.name == "as discovered" and not row.ok]


def test_discovery_confirms_a_declared_link_or_differs_and_the_operators_word_stays(world: World) -> None:
    at = ends(world)["t1-tc1"]
    before = world.controllers["transit"].state
    assert world.get("transit", "links", "t1-tc1").status["discovery"] == "not heard"
    heard(world, "t1", system(at["t1"], "tc1", at["tc1"]))
    confirmed = world.get("transit", "links", "t1-tc1").status
    assert (confirmed["source"], confirmed["discovery"]) == ("operator", "confirmed")
    says = [one for one in confirmed["said"] if one["source"] == "discovery"]
    assert says == [
        {
            "what": f"behind t1 port {at['t1']}",
            "value": f"tc1 port {at['tc1']}",
            "source": "discovery",
            "by": f"t1 port {at['t1']}, by LLDP",
            "at_s": 1000,
        }
    ]
    assert differences(world) == []

    heard(world, "t1", system(at["t1"], "tc2", 9))
    differs = world.get("transit", "links", "t1-tc1")
    assert differs.status["discovery"] == "differs"
    (difference,) = differs.status["differences"]
    assert f"(operator) says behind t1 port {at['t1']}: tc1 port {at['tc1']}" in difference
    assert difference.endswith("(discovery) says tc2 port 9")
    assert differences(world) == [difference]
    after = world.controllers["transit"].state
    assert after.fabric is before.fabric, "paths go by what the operator has declared"
    assert after.graph is before.graph

    controller = world.controllers["transit"]
    controller.event(NodeUnreachable(node="t1", reason="gone"), controller.life)
    assert world.get("transit", "links", "t1-tc1").status["discovery"] == "not heard"


def test_a_link_that_nobody_has_declared_is_shown_and_not_used(world: World) -> None:
    world.add_port("t1", 91, PortRole.FABRIC)
    world.add_port("tc1", 92, PortRole.FABRIC)
    world.run(5.0)
    state = world.controllers["transit"].state
    (entry,) = (
        entry
        for entry in state.nodes["t1"].state.entries  # type: ignore[union-attr]
        if entry.table == "attachment" and entry.match[0].value == 91
    )
    assert dict(entry.params) == {"ingress_class": 2}, "LLDP is heard there, and no SID is taken"
    graph = state.graph
    heard(world, "t1", system(91, "tc1", 92))
    link = world.get("transit", "links", "discovered-t1-91-tc1-92")
    assert link.spec == {"a": {"node": "t1", "port": 91}, "b": {"node": "tc1", "port": 92}}
    assert (link.status["phase"], link.status["discovery"]) == ("Discovered", "heard by one end")
    assert "only one end hears the other: tc1 port 92" in link.status["conditions"][0]["reason"]
    heard(world, "tc1", system(92, "t1", 91))
    link = world.get("transit", "links", "discovered-t1-91-tc1-92")
    assert link.status["discovery"] == "heard by both ends"
    assert [one["value"] for one in link.status["said"]] == ["tc1 port 92", "t1 port 91"]
    assert world.controllers["transit"].state.graph is graph
    assert differences(world) == []
    stranger = RemoteSystem(port=91, chassis_id="mac:02:00:00:00:00:09", port_id="eth0", system_name="bmc", since_s=9)
    heard(world, "t1", stranger)
    names = [one.metadata["name"] for one in world.resources("transit", "links") if "t1-91" in one.metadata["name"]]
    assert len(names) == 2, "tc1 still hears t1"
    (reason,) = (
        one.status["conditions"][0]["reason"]
        for one in world.resources("transit", "links")
        if one.metadata["name"] in names and "b" not in one.spec
    )
    assert reason.endswith("chassis mac:02:00:00:00:00:09 port eth0 (bmc)")
    assert world.get("transit", "nodes", "t1").status["remote_systems"] == [
        {"port": 91, "chassis_id": stranger.chassis_id, "port_id": "eth0", "system_name": "bmc", "since_s": 9}
    ]


def test_of_facts_the_earliest_source_counts_then_who_has_said_it_longest() -> None:
    def said(value: str, source: Source, at_s: int | None = None) -> Statement:
        return Statement(what="mtu", value=value, source=source, by="a", at_s=at_s)

    facts = [said("4", Source.ADVERTISEMENT, 1), said("3", Source.MEASUREMENT, 1), said("2", Source.DISCOVERY, 9)]
    assert prevailing(facts)["mtu"].value == "2"
    assert prevailing([*facts, said("7", Source.DISCOVERY, 5)])["mtu"].value == "7"
    assert prevailing([*facts, said("1", Source.OPERATOR)])["mtu"].value == "1"
    assert prevailing([replace(one, what=one.value) for one in facts]).keys() == {"2", "3", "4"}
