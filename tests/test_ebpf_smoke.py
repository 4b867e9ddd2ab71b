"""The XDP object as the kernel sees it: it loads, it is attached natively, frames cross it, none is lost uncounted."""

import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from namespaces import run
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet
from stack_depth import STACK_MAX, worst_chain
from vectors import generate, node
from vectors.case import from_host, udp
from xdp_node import DROPPED, PASSED, Outcome, XdpNode

from dataplane.reasons import DropReason, PipelineEvent
from dataplane.xdp.bpf import OBJECT_PATH, POSSIBLE_CPUS, BpfError, Map, Object, RingBuffer, XdpAction

pytestmark = pytest.mark.root
PACKETS = 20_000
U32 = struct.Struct("=I")


@pytest.fixture
def loaded() -> Iterator[Object]:
    with Object() as made:
        made.resize({"flow_cache": 64 * POSSIBLE_CPUS, "flow_cache_tag": 64 * POSSIBLE_CPUS})
        made.set_constants({"flow_cache_buckets": 64})
        made.load()
        yield made


def test_the_object_has_the_maps_and_programs_of_the_contract(loaded: Object) -> None:
    assert {"port_number", "port", "tx_port", "neighbor_cache", "generation", "settings", "capture", "punt"} <= set(
        loaded.map_names
    )
    assert loaded.map("flow_cache").max_entries == 64 * POSSIBLE_CPUS
    assert loaded.map("flow_cache").value_size == 256
    assert loaded.program("pipeline").id != loaded.program("pass").id


def test_no_chain_of_calls_takes_more_stack_than_linux_6_1_gives() -> None:
    size, chain = worst_chain(OBJECT_PATH)
    assert size <= STACK_MAX, chain


def test_a_frame_of_an_interface_that_is_no_port_is_the_kernels(loaded: Object) -> None:
    done = loaded.program("pipeline").test_run(bytes(60), ifindex=1)
    assert (done.action, done.frame) == (XdpAction.PASS, bytes(60))


def test_batches_write_read_and_delete_what_they_say(loaded: Object) -> None:
    numbers = loaded.map("port_number")
    keys = b"".join(U32.pack(n) for n in range(100, 400))
    numbers.update_batch(keys, keys)
    read_keys, read_values = numbers.items()
    assert sorted(U32.iter_unpack(read_keys)) == sorted(U32.iter_unpack(keys))
    assert read_keys == read_values
    numbers.delete_batch(U32.pack(7) + keys[:1196] + U32.pack(8))
    assert list(numbers) == [U32.pack(399)]
    assert not numbers.delete(U32.pack(7))


def test_an_error_says_what_was_tried_and_why_not(loaded: Object) -> None:
    with pytest.raises(BpfError, match=r"map route: a key has 24 bytes, not 3"):
        loaded.map("route").update(b"abc", bytes(8))
    with Object() as other, pytest.raises(BpfError, match=r"no constant nonsense; it has .*'flow_cache_buckets'"):
        other.set_constants({"nonsense": 1})
    with pytest.raises(BpfError, match=r"sh ebpf/build.sh"):
        Object(Path("/nowhere/stitch.bpf.o"))


def test_a_pinned_map_is_taken_over_with_its_content(loaded: Object, bpffs: Path) -> None:
    loaded.map("settings").update(bytes(4), bytes(range(16)))
    loaded.map("settings").pin(bpffs / "settings")
    with Map.open_pinned(bpffs / "settings") as pinned, Object() as second:
        second.reuse("settings", pinned)
        with pytest.raises(BpfError, match="as port: value_size 16 instead of 40, max_entries 1 instead of 512"):
            second.reuse("port", pinned)
        second.load()
        assert second.map("settings").lookup(bytes(4)) == bytes(range(16))


@pytest.fixture
def bpffs() -> Iterator[Path]:
    path = Path(f"/tmp/nst-bpffs-{os.getpid()}")
    path.mkdir()
    try:
        run("mount", "-t", "bpf", "bpf", str(path))
        try:
            yield path
        finally:
            run("umount", str(path))
    finally:
        path.rmdir()


@pytest.fixture(scope="module")
def xdp() -> Iterator[XdpNode]:
    made = XdpNode(node.PORTS)
    try:
        with made.node.entered():
            made.sync(node.TABLES)
            yield made
    finally:
        made.close()


def test_a_host_pings_its_gateway_through_native_xdp(xdp: XdpNode) -> None:
    """ARP and echo are answered in XDP; the node's kernel has no address at all."""
    device = f"h{node.A}"
    xdp.hosts.ip("address", "add", f"{node.A4}/24", "dev", device)
    before = xdp.events()
    shown = xdp.hosts.run("ping", "-c", "3", "-i", "0.05", "-W", "1", node.GATEWAY4)
    after = xdp.events()
    assert "3 received" in shown
    assert after[PipelineEvent.ECHO_ANSWERED] - before[PipelineEvent.ECHO_ANSWERED] == 3
    assert after[PipelineEvent.ARP_ANSWERED] > before[PipelineEvent.ARP_ANSWERED]
    assert node.A4 not in xdp.node.ip("address")


def test_a_watched_port_mirrors_what_comes_in(xdp: XdpNode) -> None:
    key, rows = U32.pack(node.A), xdp.object.map("port")
    row = rows.lookup(key)
    assert row is not None
    ring = RingBuffer(xdp.object.map("capture"))
    try:
        rows.update(key, row[:6] + bytes([row[6] | 1]) + row[7:])
        xdp.program.test_run(bytes(range(200)) * 2, ifindex=xdp.ifindex[node.A])
        rows.update(key, row)
        xdp.program.test_run(bytes(60), ifindex=xdp.ifindex[node.A])
        (record,) = ring.consume()
    finally:
        ring.close()
    _, ifindex, length = struct.unpack_from("=QII", record)
    assert (ifindex, length, record[16:]) == (xdp.ifindex[node.A], 400, (bytes(range(200)) * 2)[:256])


def test_an_attachment_that_is_taken_back_is_not_remembered(xdp: XdpNode) -> None:
    """Its hint was right a packet before; so is a port's that was removed."""
    unknown, frame = DropReason.UNKNOWN_ATTACHMENT, bytes(60)
    try:
        for _ in range(2):
            assert xdp.run(node.A, frame, unknown).reason != unknown
        xdp.sync(entry for entry in node.TABLES if entry.table != "attachment")
        assert xdp.run(node.A, frame, unknown).reason == unknown
    finally:
        xdp.sync(node.TABLES)
    assert xdp.run(node.A, frame, unknown).reason != unknown

    index, number, rows = U32.pack(xdp.ifindex[node.A]), U32.pack(node.A), xdp.object.map("port")
    row = rows.lookup(number)
    assert row is not None
    try:
        xdp.object.map("port_number").delete(index)
        rows.update(number, bytes(len(row)))
        assert xdp.run(node.A, frame).kind == PASSED
    finally:
        rows.update(number, row)
        xdp.object.map("port_number").update(index, number)


def test_each_garbled_packet_has_one_fate(xdp: XdpNode) -> None:
    """Passed, sent, punted, to be cut, or dropped.

    A drop counts one reason, what was sent at most one (the packet it answers).
    """
    fates = dict.fromkeys(XdpAction, 0)
    punts, cuts = RingBuffer(xdp.object.map("punt")), RingBuffer(xdp.object.map("cut"))
    try:
        before = drops(xdp)
        for port, frame in generate.frames(random.Random(8754), PACKETS):
            done = xdp.program.test_run(frame, ifindex=xdp.ifindex.get(port, 0))
            fates[XdpAction(done.action)] += 1
            after = drops(xdp)
            counted, before = after - before, after
            punted = len(punts.consume()) + len(cuts.consume())
            if done.action == XdpAction.DROP:
                assert counted + punted == 1, frame.hex()
            elif done.action == XdpAction.REDIRECT:
                assert counted <= 1 and not punted, frame.hex()
            else:
                assert (done.action, counted, punted, done.frame) == (XdpAction.PASS, 0, 0, frame), frame.hex()
    finally:
        punts.close()
        cuts.close()
    assert min(fates[XdpAction.DROP], fates[XdpAction.PASS], fates[XdpAction.REDIRECT]) > 100


@pytest.mark.parametrize(
    "packet",
    [IP(src=node.A4, dst=node.B4) / udp(), IPv6(src=node.A6, dst=node.B6) / udp()],
    ids=["arp", "solicitation"],
)
def test_a_question_that_finds_no_interface_is_one_drop(xdp: XdpNode, packet: Packet) -> None:
    frame, number, ports = from_host(node.A, packet), U32.pack(node.B), xdp.object.map("tx_port")
    interface = ports.lookup(number)
    assert interface is not None
    xdp.forget()
    try:
        ports.delete(number)
        before = xdp.all_drops()
        assert xdp.run(node.A, frame, DropReason.NEIGHBOR_UNKNOWN) == Outcome(DROPPED, DropReason.NEIGHBOR_UNKNOWN)
        after = xdp.all_drops()
    finally:
        ports.update(number, interface)
    counted = {reason: packets - before.get(reason, (0, 0))[0] for reason, (packets, _) in after.items()}
    assert {reason: count for reason, count in counted.items() if count} == {DropReason.NEIGHBOR_UNKNOWN: 1}


def drops(xdp: XdpNode) -> int:
    """Of all reasons, on all CPUs."""
    counters = np.frombuffer(xdp.object.map("drop_counter").items()[1], "<u8")
    return int(counters[::2].sum())
