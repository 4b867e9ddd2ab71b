"""Conversations over time, on several CPUs, and where there are too many: XDP and the model, side by side.

Nobody sleeps: what is known is made older, and the model's clock is later. NETSTITCH_UNASKED says how many unasked
packets are sent (10,000).
"""

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest
from scapy.packet import Packet, Raw
from vectors import node
from vectors.case import KNOWN_HOSTS, from_host
from vectors.entries import policy
from vectors.node import AGREEMENT, B4, BOOTTIME_S, TENANT, A, B, remote4
from vectors.quotes import error, quoted
from vectors.replies import ENTRIES, arriving, ends, reply, request
from xdp_node import DROPPED, SENT, XdpNode, outcome

from dataplane.entry import TableEntry
from dataplane.reasons import CONVERSATION_WAYS, FLOW_CACHE_WAYS, DropReason, PipelineEvent
from dataplane.reference import Pipeline

pytestmark = pytest.mark.root
UNASKED = int(os.environ.get("NETSTITCH_UNASKED", "10000"))
CONVERSATION = np.dtype({"names": ["seen_s"], "formats": ["<u4"], "offsets": [40], "itemsize": 48})
BUCKET = np.dtype({"names": ["ways"], "formats": [(CONVERSATION, CONVERSATION_WAYS)], "offsets": [8], "itemsize": 392})
MINUTE, HOUR = 60, 3600
LATE = 45
"""The cache may have seen packets that a conversation does not know of."""
OPENS, ANSWERS, DATA = (TCP(sport=5000, dport=80, flags="S"), TCP(sport=80, dport=5000, flags="SA"),
                        TCP(sport=5000, dport=80, flags="A"))  # fmt: skip


def entries() -> list[TableEntry]:
    by_key = {(entry.table, entry.match, entry.priority): entry for entry in (*node.TABLES, *ENTRIES)}
    return list(by_key.values())


class Pair:
    """XDP and the model, which must agree about each frame."""

    def __init__(self, **sizes: int) -> None:
        self.xdp = XdpNode(node.PORTS, **sizes)
        self.now_s = BOOTTIME_S
        self.begin()

    def begin(self) -> None:
        self.model = Pipeline(entries(), node.PORTS)
        self.xdp.sync(entries())
        self.xdp.forget()
        for port, frame in KNOWN_HOSTS:
            self.send(port, frame)

    def send(self, port: int, frame: bytes) -> str:
        seen, self.model.flows.cache = self.xdp.run_first(port, frame)
        expected = outcome(self.model.run(port, frame, self.now_s))
        assert seen == expected, (port, frame.hex(), seen, expected)
        return expected.kind

    def change(self, *added: TableEntry) -> None:
        """More entries, written as an agent writes them: what is remembered stays."""
        before, changed = self.model, [*entries(), *added]
        self.xdp.sync(changed)
        self.model = Pipeline(changed, node.PORTS)
        self.model.flows.conversations = before.flows.conversations
        for port, frame in KNOWN_HOSTS:
            self.send(port, frame)

    def ask(self, transport: Packet, version: int = 4) -> None:
        assert self.send(*request(version, transport)) == SENT

    def is_answered(self, transport: Packet, version: int = 4) -> bool:
        return self.send(*arriving(reply(version, transport))) == SENT

    def age(self, seconds: int) -> None:
        """All that XDP knows is so much older, and the model's clock so much later."""
        self.now_s += seconds
        known = self.xdp.object.map("conversation")
        keys, values = known.items()
        buckets = np.frombuffer(bytearray(values), BUCKET)
        seen_s = buckets["ways"]["seen_s"]
        seen_s[seen_s != 0] -= seconds
        known.update_batch(keys, buckets.tobytes())
        self.xdp.age_flows(seconds)


@pytest.fixture(scope="module")
def made() -> Iterator[Pair]:
    pair = Pair()
    try:
        with pair.xdp.inside():
            yield pair
    finally:
        pair.xdp.close()


@pytest.fixture
def pair(made: Pair) -> Pair:
    made.begin()
    return made


def unasked(rng: random.Random) -> Packet:
    version = rng.choice((4, 6))
    ports = {"sport": rng.choice((80, 443, 53, rng.randrange(65536))), "dport": rng.randrange(65536)}
    match rng.randrange(4):
        case 0:
            transport = UDP(**ports)
        case 1:
            kind, number = rng.choice((0, 3, 8, 11, 12)), rng.randrange(65536)
            transport = ICMP(type=kind, id=number) if version == 4 else rng.choice(
                (ICMPv6EchoReply(id=number), ICMPv6EchoRequest(id=number)))  # fmt: skip
        case _:
            transport = TCP(**ports, flags=rng.randrange(256))
    return reply(version, transport / Raw(bytes(rng.randrange(40))))


def test_nothing_that_nobody_asked_for_is_delivered(pair: Pair) -> None:
    """Every combination of TCP's flags, UDP and ICMP, while the client talks to the service by other ports."""
    rng = random.Random(8)
    pair.ask(UDP(sport=1, dport=1))
    pair.ask(TCP(sport=1, dport=1, flags="S"))
    frames = [arriving(reply(4, TCP(sport=80, dport=5000, flags=flags))) for flags in range(256)]
    frames += [arriving(unasked(rng)) for _ in range(UNASKED)]
    assert {pair.send(*frame) for frame in frames} == {DROPPED}


def test_what_was_asked_is_answered_for_each_protocol(pair: Pair) -> None:
    rng = random.Random(9)
    for number in range(1000):
        version, port, other = rng.choice((4, 6)), 10000 + number, rng.randrange(1, 65536)
        asked, answer = rng.choice(
            (
                (UDP(sport=port, dport=other), UDP(sport=other, dport=port)),
                (TCP(sport=port, dport=other, flags="S"), TCP(sport=other, dport=port, flags="SA")),
                (ICMP(id=port), ICMP(type=0, id=port)) if version == 4 else
                (ICMPv6EchoRequest(id=port), ICMPv6EchoReply(id=port)),
            )
        )  # fmt: skip
        pair.ask(asked, version)
        assert pair.is_answered(answer, version)


@pytest.mark.parametrize(
    ("asked", "answer", "alive_s", "protocol"),
    [
        (UDP(sport=5000, dport=53), UDP(sport=53, dport=5000), 5 * MINUTE, "udp"),  # RFC 4787 REQ-5
        (ICMP(id=5), ICMP(type=0, id=5), 60, "echo"),  # RFC 5508 REQ-1
        (OPENS, ANSWERS, 4 * MINUTE, "opening"),  # RFC 5382 REQ-5
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_answer_passes_as_long_as_the_question_is_alive(
    pair: Pair, asked: Packet, answer: Packet, alive_s: int, protocol: str
) -> None:
    pair.ask(asked)
    pair.age(alive_s)
    assert pair.is_answered(answer)
    pair.age(alive_s)  # either direction keeps it alive
    assert pair.is_answered(answer)
    pair.age(alive_s + LATE)
    assert not pair.is_answered(answer)


def established(pair: Pair) -> None:
    pair.ask(OPENS)
    assert pair.is_answered(ANSWERS)
    pair.ask(DATA)


def test_tcp_is_established_for_two_hours_and_four_minutes_of_silence(pair: Pair) -> None:
    established(pair)
    pair.age(2 * HOUR + 4 * MINUTE)
    assert pair.is_answered(TCP(sport=80, dport=5000, flags="A"))
    pair.age(2 * HOUR + 4 * MINUTE + LATE)
    assert not pair.is_answered(TCP(sport=80, dport=5000, flags="A"))
    pair.ask(DATA)  # the client may go on: it is who may ask
    assert pair.is_answered(TCP(sport=80, dport=5000, flags="A"))


@pytest.mark.parametrize("first", ["client", "service"])
def test_half_closed_tcp_goes_on_and_closed_tcp_ends(pair: Pair, first: str) -> None:
    def fin(by: str) -> None:
        if by == "client":
            pair.ask(TCP(sport=5000, dport=80, flags="FA"))
        else:
            assert pair.is_answered(TCP(sport=80, dport=5000, flags="FA"))

    established(pair)
    fin(first)
    pair.age(2 * HOUR)
    assert pair.is_answered(TCP(sport=80, dport=5000, flags="PA"))
    fin("service" if first == "client" else "client")
    assert pair.is_answered(TCP(sport=80, dport=5000, flags="A"))  # retransmitted
    pair.age(4 * MINUTE + LATE)
    assert not pair.is_answered(TCP(sport=80, dport=5000, flags="A"))


def test_a_reset_ends_tcp_unless_it_goes_on(pair: Pair) -> None:
    """RFC 7857 §2.2: who forges a reset ends nothing that is alive."""
    established(pair)
    assert pair.is_answered(TCP(sport=80, dport=5000, flags="R"))
    pair.age(2 * MINUTE)
    pair.ask(DATA)
    pair.age(2 * HOUR)
    assert pair.is_answered(TCP(sport=80, dport=5000, flags="A"))
    pair.ask(TCP(sport=5000, dport=80, flags="RA"))
    pair.age(4 * MINUTE + LATE)
    assert not pair.is_answered(TCP(sport=80, dport=5000, flags="A"))


def test_both_ends_may_open_at_once(pair: Pair) -> None:
    """RFC 5382 REQ-2. Once it is answered nobody opens from the other end."""
    pair.ask(OPENS)
    assert pair.is_answered(TCP(sport=80, dport=5000, flags="S"))
    assert pair.is_answered(ANSWERS)
    assert not pair.is_answered(TCP(sport=80, dport=5000, flags="S"))
    assert not pair.is_answered(TCP(sport=81, dport=5000, flags="S"))


@pytest.mark.parametrize("flags", ["", "F", "FPU", "SF", "SR", "SAF", "P"])
def test_flags_that_mean_nothing_pass_in_no_conversation(pair: Pair, flags: str) -> None:
    established(pair)
    assert not pair.is_answered(TCP(sport=80, dport=5000, flags=flags))
    assert pair.is_answered(TCP(sport=80, dport=5000, flags="A"))


def test_a_port_that_is_used_again_is_a_new_conversation(pair: Pair) -> None:
    established(pair)
    pair.ask(TCP(sport=5000, dport=80, flags="FA"))
    assert pair.is_answered(TCP(sport=80, dport=5000, flags="FA"))
    established(pair)
    pair.age(2 * HOUR)
    assert pair.is_answered(TCP(sport=80, dport=5000, flags="A"))


def test_a_reply_may_come_on_another_cpu(pair: Pair) -> None:
    cpus = sorted(os.sched_getaffinity(0) | set(range(os.cpu_count() or 1)))
    assert len(cpus) > 1, "one CPU shows nothing"
    before = os.sched_getaffinity(0)
    try:
        for number in range(50):
            os.sched_setaffinity(0, {cpus[number % 2]})
            pair.ask(UDP(sport=6000 + number, dport=53))
            os.sched_setaffinity(0, {cpus[1 - number % 2]})
            assert pair.is_answered(UDP(sport=53, dport=6000 + number))
            assert not pair.is_answered(UDP(sport=54, dport=6000 + number))
    finally:
        os.sched_setaffinity(0, before)


def test_a_change_of_policy_leaves_conversations_alone(pair: Pair) -> None:
    established(pair)
    pair.change(policy(TENANT, 9_000, "drop", 70, l4_class=(4, 0xF)))
    assert pair.is_answered(TCP(sport=80, dport=5000, flags="A"))


def test_a_flow_that_turns_out_to_be_a_reply_keeps_its_class_while_the_cache_knows_it(pair: Pair) -> None:
    """Both networks may ask, and what asks from afar goes before: the flow is known before its other end opens."""
    pair.change(policy(TENANT, 9_000, "permit_reply", 102), policy(AGREEMENT, 9_000, "permit_request", 30))
    asks, opens = UDP(sport=5000, dport=53), UDP(sport=53, dport=5000)

    def forwarding_class() -> int:
        pair.ask(asks)
        (seen,) = (record[0] for key, record in pair.xdp.flow_records().items() if key.source_port == 5000)
        return seen

    assert forwarding_class() == 101
    assert pair.is_answered(opens)
    hits = pair.xdp.event(PipelineEvent.CACHE_HIT)
    assert forwarding_class() == 101
    assert pair.xdp.event(PipelineEvent.CACHE_HIT) == hits + 1
    pair.age(LATE)
    assert forwarding_class() == 102


@pytest.mark.parametrize("version", [4, 6])
def test_errors_are_believed_of_what_is_alive_and_change_nothing(pair: Pair, version: int) -> None:
    there = ends(version)
    asked, answer = UDP(sport=5000, dport=53), UDP(sport=53, dport=5000)
    to_client = arriving(error(there[::-1], quoted(there, asked)))
    to_service = A, from_host(A, error(there, quoted(there[::-1], answer)))
    assert [pair.send(*told) for told in (to_client, to_service)] == [DROPPED] * 2
    pair.ask(asked, version)
    for _ in range(3):
        assert [pair.send(*told) for told in (to_client, to_service)] == [SENT] * 2
        pair.age(2 * MINUTE)
    assert [pair.send(*told) for told in (to_client, to_service)] == [DROPPED] * 2


@pytest.fixture
def small() -> Iterator[XdpNode]:
    """Room for CONVERSATION_WAYS conversations, and FLOW_CACHE_WAYS flows of each CPU."""
    made = XdpNode(node.PORTS, buckets=1, conversation_buckets=1)
    try:
        with made.inside():
            made.sync(entries())
            for port, frame in KNOWN_HOSTS:
                made.run(port, frame)
            yield made
    finally:
        made.close()


def test_who_opens_too_many_displaces_its_own(small: XdpNode) -> None:
    assert small.run(*request(4, UDP(sport=5000, dport=53))).kind == SENT
    for number in range(100):
        other = IP(src=B4, dst=remote4(1)) / UDP(sport=7000 + number, dport=53)
        assert small.run(B, from_host(B, other)).kind == SENT
    assert small.events()[PipelineEvent.CONVERSATION_EVICTED] == 100 + 1 - CONVERSATION_WAYS
    flows = {key.source_port for key in small.flow_records()}
    assert 5000 in flows and len(flows) == FLOW_CACHE_WAYS
    assert small.run(*arriving(reply(4, UDP(sport=53, dport=5000)))).kind == SENT
    for port, delivered in ((7099, SENT), (7000, DROPPED)):
        back = IP(src=remote4(1), dst=B4) / UDP(sport=53, dport=port)
        seen = small.run(*arriving(back), DropReason.UNASKED)
        assert (seen.reason == DropReason.UNASKED) == (delivered == DROPPED)


def test_what_is_dead_gives_way_before_what_is_alive() -> None:
    pair = Pair(conversation_buckets=1)
    try:
        with pair.xdp.inside():
            established(pair)
            for number in range(CONVERSATION_WAYS - 1):
                pair.ask(UDP(sport=7000 + number, dport=53))
            pair.age(10 * MINUTE)  # only TCP is alive now, though it is the eldest
            for number in range(CONVERSATION_WAYS - 1):
                pair.ask(UDP(sport=8000 + number, dport=53))
            assert pair.is_answered(TCP(sport=80, dport=5000, flags="A"))
            assert pair.xdp.events()[PipelineEvent.CONVERSATION_EVICTED] == 0
    finally:
        pair.xdp.close()
