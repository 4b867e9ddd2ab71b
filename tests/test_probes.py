"""Probes of real agents: what is sent comes back as RFC 8762 says, and what does not come back is judged.

```
 near ── port 1 ───── port 1 ── far
    └─── port 2 ───── port 2 ──┘
```
"""

import hashlib
import hmac
import ipaddress
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from agents import AgentProcess, Bpffs
from controllers import Controller, entry
from namespaces import Namespace, run, veth
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrSegmentRouting
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap
from waiting import LIMIT_S, wait_for

from dataplane.host_api import (
    CapturedFrame,
    CaptureQuery,
    FarEnd,
    HostState,
    Probe,
    ProbeReading,
    TelemetryBatch,
    TelemetryQuery,
)
from dataplane.p4runtime import p4info
from dataplane.probes.frame import template
from dataplane.probes.prober import Prober
from dataplane.reasons import NOTICE_SSID, STAMP_PORT, DropReason, PipelineEvent
from dataplane.tables import layout
from dataplane.xdp.bpf import Map, Object

pytestmark = pytest.mark.root
NEAR, FAR = "5f00:1:1::", "5f00:1:2::"
OVER_LINK_1 = "5f00:1:2:1::"
OVER_LINK_2 = "5f00:1:2:e002:1::"
"""Far, its End.X over port 2, near."""
GROUP = 7
Frames = tuple[list[tuple[float, bytes]], bytes]


@dataclass
class Pair:
    near: Namespace
    far: Namespace
    agents: tuple[AgentProcess, AgentProcess]
    pins: Path

    @property
    def agent(self) -> AgentProcess:
        return self.agents[0]

    def readings(self) -> Iterator[dict[tuple[int, int | None], ProbeReading]]:
        """By port and slot, as they come."""
        for batch in self.agent.stream("WatchTelemetry", TelemetryQuery(interval_s=0.1), TelemetryBatch):
            if batch.probes:
                yield {(reading.port, reading.slot): reading for reading in batch.probes}

    def map(self, name: str, node: str = "near") -> Map:
        (path,) = (self.pins / node).glob(f"maps-*/{name}")
        return Map.open_pinned(path)

    def dead(self) -> int:
        with self.map("path_dead") as dead:
            return int.from_bytes((dead.lookup(struct.pack("=I", GROUP)) or b"")[:4], "little")

    def last_sent(self, ssid: int) -> int:
        """Sequence number of the newest probe."""
        with self.map("probe") as probes:
            sent = probes.lookup(struct.pack("=I", ssid)) or b""
        return max(sequence for *_, sequence, is_sent in struct.iter_unpack("=QQ16sII", sent) if is_sent)

    def events(self, name: str = "near") -> dict[PipelineEvent, int]:
        with self.map("event_counter", name) as counters:
            return {
                event: sum(struct.unpack("=Q", value)[0] for value in counters.lookup_per_cpu(struct.pack("=I", event)))
                for event in PipelineEvent
            }


def node(name: str, pins: Path, directory: Path, **config: Any) -> tuple[Namespace, AgentProcess]:
    namespace = Namespace(name)
    ports = [{"number": n, "interface": f"p{n}", "role": "fabric", "way": "native"} for n in (1, 2)]
    return namespace, AgentProcess(namespace, directory / name, pins, ports=ports, **config)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    bpffs = Bpffs(tmp_path / "bpf")
    (near, first), (far, second) = (node(name, bpffs.path, tmp_path) for name in ("near", "far"))
    for number in (1, 2):
        veth(near, f"p{number}", far, f"p{number}")
    made = Pair(near, far, (first, second), bpffs.path)
    try:
        for agent in made.agents:
            agent.start()
        for (agent, own, other), peer in zip(((first, NEAR, FAR), (second, FAR, NEAR)), (second, first), strict=True):
            macs, peers = ({port.number: port.mac for port in each.describe().ports} for each in (agent, peer))
            controller = Controller(agent)
            controller.insert(
                entry("local_sid", "end", ingress_class=1, destination=f"{own}/48"),
                entry(
                    "local_sid", "end_x", params={"next_hop": 2}, ingress_class=1, destination=f"{own[:-2]}:e002::/64"
                ),
                entry("route", "set_next_hop", params={"next_hop": 1}, vrf=0, destination=f"{other}/48"),
                *(entry("attachment", "link", params={"ingress_class": 1}, ingress_port=n, vlan_id=0) for n in (1, 2)),
                *(
                    entry(
                        "next_hop",
                        "forward",
                        params={"port": n, "source_mac": macs[n], "destination_mac": peers[n]},
                        next_hop=n,
                    )
                    for n in (1, 2)
                ),
            )
            controller.close()
        yield made
    finally:
        for agent in made.agents:
            agent.remove()
        for namespace in (near, far):
            namespace.remove()
        bpffs.remove()


@pytest.fixture
def sender() -> Iterator[tuple[Namespace, Object]]:
    """A namespace with the pipeline's maps, in which port 1 leads to `eth0`, and out of it by `peer`."""
    namespace = Namespace("sender")
    namespace.ip("link", "add", "eth0", "type", "veth", "peer", "name", "peer")
    for name in ("eth0", "peer"):
        namespace.ip("link", "set", name, "up")
    with Object() as pipeline:
        pipeline.load()
        hop = struct.pack("=I4xHH6s6s", 1, 1, 0, bytes.fromhex("020000000001"), bytes.fromhex("020000000002"))
        hops = pipeline.map("next_hop")
        hops.update(struct.pack("=I", 1), hop.ljust(hops.value_size, b"\0"))
        yield namespace, pipeline
    namespace.remove()


def frames(namespace: Namespace, pipeline: Object, probes: tuple[Probe, ...], rate_max: int, count: int) -> Frames:
    """The first that a prober sends, when each came, and its key."""
    with namespace.entered():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
        wire.bind(("peer", 0x86DD))
        maps = {name: pipeline.map(name) for name in ("next_hop", "probe", "path_dead")}
        hops = layout.of(p4info.load()).by_name["next_hop"]
        prober = Prober(maps, hops, lambda port: "eth0", rate_max)
        prober.sync(probes)
    came: list[tuple[float, bytes]] = []
    while len(came) < count:
        frame, address = wire.recvfrom(2048)
        if address[2] == socket.PACKET_HOST or address[2] == socket.PACKET_OTHERHOST:
            came.append((time.monotonic(), frame))
    key = prober.key
    prober.close()
    wire.close()
    return came, key


def probe(port: int, slot: int | None = None, interval_ms: int = 10) -> Probe:
    containers = (OVER_LINK_1,) if port == 1 else (OVER_LINK_2,)
    group = GROUP if slot is not None else 0
    return Probe(
        port=port, source=NEAR, containers=containers, interval_ms=interval_ms, liveness_group=group, slot=slot
    )


def test_what_is_sent_over_either_link_comes_back_and_is_measured(pair: Pair) -> None:
    pair.agent.sync(HostState(probes=(probe(1, 0), probe(2, 1), probe(1))))
    assert pair.agent.describe().host_state.probes == (probe(1, 0), probe(2, 1), probe(1))
    come = pair.readings()
    first, readings = next(come), next(come)
    assert readings.keys() == {(1, 0), (2, 1), (1, None)}
    for reading in readings.values():
        assert reading.is_alive
        assert 0 < reading.round_trip_us_min <= reading.round_trip_us < 1_000_000
        assert reading.sent > first[reading.port, reading.slot].sent
        assert reading.sent > reading.lost
    assert pair.events()[PipelineEvent.PROBE_RETURNED] > 0
    controller = Controller(pair.agent, 2)
    assert DropReason.SEGMENTS_LEFT not in controller.counter("drop_counter"), "what comes back is no loss"
    controller.close()


LONG = (
    Probe(
        port=1,
        source=NEAR,
        containers=("5f00:1:2:3:4:5:6:7", "5f00:1:8:9:a:b:c:d", "5f00:1:e:1::"),
        interval_ms=10,
        liveness_group=GROUP,
        slot=3,
    ),
)
"""More SIDs than one container has."""


@pytest.mark.parametrize("probes", [(probe(1, 0),), LONG], ids=["without an SRH", "with an SRH"])
def test_probes_are_stamp_in_authenticated_mode(
    sender: tuple[Namespace, Object], probes: tuple[Probe, ...], tmp_path: Path
) -> None:
    """RFC 8762 §4.2.2, §4.4; RFC 8972 §3; decoded by scapy and tshark."""
    came, key = frames(*sender, probes, rate_max=1000, count=5)
    (wanted,) = probes
    for sequence, (_, frame) in enumerate(came):
        stamp = frame[-112:]
        assert int.from_bytes(stamp[:4]) == sequence
        assert stamp[4:16] == bytes(12)
        seconds, fraction = struct.unpack_from("!II", stamp, 16)
        assert abs(seconds - 2_208_988_800 + fraction / 2**32 - time.time()) < LIMIT_S
        assert stamp[24:28] == bytes.fromhex("00010000"), "error estimate, SSID 0"
        assert stamp[28:96] == bytes(68)
        assert stamp[96:] == hmac.new(key, stamp[:96], hashlib.sha256).digest()[:16]
        packet = Ether(frame)
        assert (packet.dst, packet.src) == ("02:00:00:00:00:02", "02:00:00:00:00:01")
        assert (packet[IPv6].src, packet[IPv6].dst) == (NEAR, wanted.containers[0])
        if len(wanted.containers) > 1:
            srh = packet[IPv6ExtHdrSegmentRouting]
            assert list(srh.addresses) == list(reversed(wanted.containers[1:]))
            assert (srh.segleft, srh.lastentry) == (2, 1)
        # as it comes back: the last container is used up
        arrived = IPv6(src=NEAR, dst=NEAR) / UDP(bytes(packet[UDP]))
        given, arrived[UDP].chksum = arrived[UDP].chksum, None
        assert IPv6(bytes(arrived))[UDP].chksum == given
    pcap = tmp_path / "probes.pcap"
    wrpcap(str(pcap), [Ether(frame) for _, frame in came])
    fields = ("-e", "twamp.test.seq_number", "-e", "udp.dstport", "-e", "ipv6.dst")
    decoded = run("tshark", "-r", str(pcap), "-d", f"udp.port=={STAMP_PORT},twamp.test", "-T", "fields", *fields)
    rows = [line.split("\t") for line in decoded.splitlines()]
    assert [row[:2] for row in rows] == [[str(sequence), str(STAMP_PORT)] for sequence in range(5)]


def test_no_more_are_sent_than_the_node_may_send(sender: tuple[Namespace, Object]) -> None:
    probes = tuple(probe(1, slot) for slot in range(4))
    came, _ = frames(*sender, probes, rate_max=20, count=24)
    assert came[-1][0] - came[3][0] > 0.6, "20 after the first of each, with jitter, in a second without it"


def over_link(pair: Pair, number: int, *, passes: bool) -> None:
    """Far takes nothing any more that comes in by this link, or all of it again; both ends keep their carrier."""
    controller = Controller(pair.agents[1])
    link = entry("attachment", "link", params={"ingress_class": 1}, ingress_port=number, vlan_id=0)
    (controller.insert if passes else controller.delete)(link)
    controller.close()


def test_a_path_that_swallows_everything_is_dead_until_it_has_been_well_for_a_while(pair: Pair) -> None:
    pair.agent.sync(HostState(probes=(probe(1, 0), probe(2, 1), probe(1, interval_ms=50))))
    next(pair.readings())
    assert pair.dead() == 0
    over_link(pair, 1, passes=False)
    wait_for(lambda: pair.dead() == 0b01, "the first path is found dead")
    wait_for(lambda: pair.agent.describe().ports[0].silent, "so is its link")
    ports = pair.agent.describe().ports
    assert [(port.carrier, port.silent) for port in ports] == [(True, True), (True, False)]
    over_link(pair, 1, passes=True)
    begin = time.monotonic()
    wait_for(lambda: pair.dead() == 0, "it is well again")
    assert time.monotonic() - begin > 1, "not at the first probe that comes back"
    wait_for(lambda: not pair.agent.describe().ports[0].silent, "the link too")


def test_what_does_not_come_back_for_a_second_is_lost_long_before_64_more_were_sent(pair: Pair) -> None:
    pair.agent.sync(HostState(probes=(probe(2, interval_ms=250),)))
    come = pair.readings()
    before = next(come)[2, None]
    over_link(pair, 2, passes=False)
    reading = next(readings[2, None] for readings in come if readings[2, None].lost > before.lost)
    assert reading.sent - before.sent < 64


def test_where_all_paths_are_dead_that_is_taken_which_came_back_last(pair: Pair) -> None:
    pair.agent.sync(HostState(probes=(probe(1, 0), probe(2, 1))))
    next(pair.readings())
    over_link(pair, 2, passes=False)
    wait_for(lambda: pair.dead() == 0b10, "the second path is found dead")
    over_link(pair, 1, passes=False)
    over_link(pair, 2, passes=True)
    wait_for(lambda: pair.dead() == 0b01, "the first too, and the second comes back before it is alive")


def test_the_far_end_is_told_of_a_dead_path_over_another(pair: Pair) -> None:
    told = tuple(
        msgspec.structs.replace(probe(n, n - 1), far_end=FarEnd(sid=FAR, containers=(FAR,), liveness_group=n, slot=n))
        for n in (1, 2)
    )
    pair.agent.sync(HostState(probes=told))
    next(pair.readings())
    assert pair.events("far")[PipelineEvent.PATH_DOUBTED] == 0
    over_link(pair, 1, passes=False)
    wait_for(lambda: pair.events("far")[PipelineEvent.PATH_DOUBTED] > 0, "it is told")
    with pair.map("path_dead", "far") as paths:
        (_, _, doubted, _) = struct.unpack("=IIII", paths.lookup(struct.pack("=I", 1)) or b"")
    assert doubted == 0b10, "no probes are told there, so that nobody has taken it away"


def notice(pair: Pair) -> None:
    """From far, over link 2, that path 0 is dead."""
    near, far = (agent.describe().ports[1].mac for agent in pair.agents)
    made = template(
        destination_mac=bytes.fromhex(near.replace(":", "")),
        source_mac=bytes.fromhex(far.replace(":", "")),
        source=int(ipaddress.ip_address(FAR)),
        destination=int(ipaddress.ip_address(NEAR)),
        containers=[int(ipaddress.ip_address(NEAR))],
        ssid=NOTICE_SSID,
    )
    frame = bytearray(made.frame)
    frame[made.stamp_at + 28 : made.stamp_at + 31] = struct.pack("!HB", GROUP, 0)
    with pair.far.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
        wire.bind(("p2", 0))
        wire.send(bytes(frame))


def test_a_path_of_which_its_far_end_tells_is_dead_when_one_probe_is_missed(pair: Pair) -> None:
    pair.agent.sync(HostState(probes=(probe(1, 0, interval_ms=3000), probe(2, 1))))
    wait_for(lambda: next(pair.readings())[1, 0].round_trip_us > 0, "it is measured")
    over_link(pair, 1, passes=False)
    before = pair.last_sent(0)

    def is_dead() -> bool:
        notice(pair)
        return pair.dead() == 0b01

    wait_for(is_dead, "it is dead")
    assert pair.last_sent(0) <= before + 2, "three were not sent since"


def test_a_notice_of_a_path_that_is_well_changes_nothing(pair: Pair) -> None:
    pair.agent.sync(HostState(probes=(probe(1, 0, interval_ms=200), probe(2, 1))))
    next(pair.readings())
    notice(pair)
    wait_for(lambda: pair.events()[PipelineEvent.PATH_DOUBTED] == 1, "it has come")
    before = pair.last_sent(0)
    wait_for(lambda: pair.last_sent(0) > before + 1, "so long it is doubted")
    assert pair.dead() == 0


def test_without_a_carrier_a_path_is_dead_at_once(pair: Pair) -> None:
    pair.agent.sync(HostState(probes=(probe(1, 0, interval_ms=60_000), probe(2, 1, interval_ms=60_000))))
    pair.far.ip("link", "set", "p1", "down")
    wait_for(lambda: pair.dead() == 0b01, "no probe was needed")
    assert [(port.carrier, port.silent) for port in pair.agent.describe().ports] == [(False, False), (True, False)]


def test_a_probe_of_what_is_no_sid_is_refused(pair: Pair) -> None:
    wrong = Probe(port=1, source=NEAR, containers=("2001:db8::1",), interval_ms=10)
    with pytest.raises(grpc.RpcError, match="2001:db8::1 is no SID"):
        pair.agent.sync(HostState(probes=(wrong,)))


def test_what_is_not_probed_any_more_is_not_dead(pair: Pair) -> None:
    pair.agent.sync(HostState(probes=(probe(1, 0), probe(2, 1))))
    pair.far.ip("link", "set", "p1", "down")
    wait_for(lambda: pair.dead() == 0b01)
    pair.agent.sync(HostState(probes=(probe(1, 0), probe(2, 1), probe(1))))
    assert pair.dead() == 0b01, "what was judged is kept where others are probed too"
    pair.agent.sync(HostState(probes=(probe(2, 1),)))
    assert pair.dead() == 0


def test_forged_and_replayed_probes_are_refused_and_counted(pair: Pair) -> None:
    pair.agent.sync(HostState(probes=(probe(1, 0),)))
    query = CaptureQuery(port=1, count=1000, seconds=LIMIT_S)
    before = pair.events()
    with pair.far.entered():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        wire.bind(("p1", 0))
    kinds = set()
    for captured in pair.agent.stream("Capture", query, CapturedFrame):
        frame = Ether(captured.frame)
        if UDP not in frame or frame[UDP].dport != STAMP_PORT:
            continue
        raw = bytearray(captured.frame)
        wire.send(bytes(raw))  # once more
        wire.send(bytes(raw[:-1]) + bytes((raw[-1] ^ 1,)))  # another HMAC
        raw[-112 + 26 : -112 + 28] = (500).to_bytes(2)
        wire.send(bytes(raw))  # of a session that there is not
        now = pair.events()
        kinds = {
            kind for kind in (PipelineEvent.PROBE_FORGED, PipelineEvent.PROBE_REPLAYED) if now[kind] > before[kind]
        }
        if len(kinds) == 2:
            break
    wire.close()
    assert kinds == {PipelineEvent.PROBE_FORGED, PipelineEvent.PROBE_REPLAYED}
    readings = next(pair.readings())
    assert readings[1, 0].is_alive


def test_paths_that_carry_nothing_are_probed_more_seldom(pair: Pair) -> None:
    """Ten times; from the first packet on as often as was told, until a second after the last."""

    def share() -> float:
        """Of as many as the link was sent in the same time."""
        come = pair.readings()
        begin, end = next(come), next(come)
        of_link, of_path = (end[key].sent - begin[key].sent for key in ((1, None), (1, 0)))
        return of_path / of_link

    pair.agent.sync(HostState(probes=(probe(1, 0), probe(2, 1), probe(1, interval_ms=100))))
    assert share() < 2
    with used(pair):
        assert share() > 5
    wait_for(lambda: share() < 2, "it is probed seldom again, a second after the last")


@contextmanager
def used(pair: Pair) -> Iterator[None]:
    """The map says what it says while packets are sent by a path of GROUP."""
    ended = threading.Event()

    def mark() -> None:
        with pair.map("path_dead") as paths:
            while not ended.wait(0.05):
                paths.update(struct.pack("=I", GROUP), struct.pack("=IIII", 0, 1, 0, 0))

    marking = threading.Thread(target=mark)
    marking.start()
    try:
        yield
    finally:
        ended.set()
        marking.join()
