"""What others make of the same packets: tshark's decoder, and the kernel's own SRv6 (root, seg6 in the kernel)."""

import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from namespaces import Namespace, veth
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw
from scapy.utils import PcapWriter
from vectors import encapsulation, entries_of, errors
from vectors.case import PAYLOAD, from_host, ip, srv6, tcp, udp
from vectors.entries import address
from vectors.node import A4, A6, BOOTTIME_S, EDGE, PORTS, TABLES, A, remote4, remote6, segments
from waiting import LIMIT_S

from dataplane.reference import Forward, Pipeline
from dataplane.reference.checksum import checksum, ones_complement_sum, updated
from dataplane.reference.packet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ip, parse_ethernet, parse_ip
from dataplane.reference.srv6 import Outer, decapsulate, encapsulate, end
from dataplane.reference.srv6 import Path as SegmentPath

SRH_FIELDS = ("ipv6.routing.type", "ipv6.routing.segleft", "ipv6.routing.srh.last_entry", "ipv6.routing.srh.addr")


def tshark(path: Path, *fields: str) -> list[list[list[str]]]:
    """For each frame, for each field, its values."""
    command = ["tshark", "-r", str(path), "-T", "fields", "-E", "separator=|", "-E", "aggregator= "]
    options = ("ip.check_checksum:TRUE", "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE")
    for option in options:
        command += ["-o", option]
    for field in fields:
        command += ["-e", field]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [[values.split() for values in line.split("|")] for line in done.stdout.splitlines()]


def written(path: Path, frames: list[bytes]) -> Path:
    with PcapWriter(str(path), linktype=1) as pcap:
        for frame in frames:
            pcap.write(frame)
    return path


def test_tshark_reads_the_segments(tmp_path: Path) -> None:
    pipeline = Pipeline(TABLES, PORTS)
    numbers = [(count, version) for count in range(1, 9) for version in (4, 6)]
    frames = []
    for count, version in numbers:
        ends = (A4, remote4(count)) if version == 4 else (A6, remote6(count))
        verdict = pipeline.run(A, from_host(A, ip(version, *ends) / tcp(flags="PA")), BOOTTIME_S)
        assert isinstance(verdict, Forward)
        frames.append(verdict.frame)
    fields = (*SRH_FIELDS, "ipv6.dst", "ipv6.flow", "ipv6.tclass.dscp", "ip.checksum.status", "tcp.checksum.status")
    rows = tshark(written(tmp_path / "encapsulated.pcap", frames), *fields)
    assert len(rows) == len(numbers)
    for (count, version), row in zip(numbers, rows, strict=True):
        kind, left, last, listed, destinations, labels, dscp, ip_status, tcp_status = row
        others = segments(count)[1:]
        shown = (["4"], [str(len(others))], [str(len(others) - 1)]) if others else ([], [], [])
        assert (kind, left, last) == shown
        assert [address(sid) for sid in listed] == [address(sid) for sid in reversed(others)]
        assert address(destinations[0]) == address(segments(count)[0])
        assert int(labels[0], 16) >> 6 == 0x1ABC
        assert dscp[0] == "46"
        assert ip_status == (["1"] if version == 4 else [])
        assert tcp_status == ["1"]


def test_tshark_finds_checksums_right(tmp_path: Path) -> None:
    """Of all that the pipeline changed or wrote: inner headers, clamped SYNs, ICMP errors and their quotes' headers."""
    vectors = [v for v in (*encapsulation.mss(), *encapsulation.ecn(), *errors.too_big()) if _is_sent(v.expected)]
    frames = []
    for vector in vectors:
        verdict = Pipeline(entries_of(vector), PORTS).run(vector.port, vector.frame, BOOTTIME_S)
        assert isinstance(verdict, Forward)
        frames.append(verdict.frame)
    fields = ("ip.checksum.status", "tcp.checksum.status", "icmp.checksum.status", "icmpv6.checksum.status")
    rows = tshark(written(tmp_path / "changed.pcap", frames), *fields)
    assert len(rows) == len(vectors)
    for vector, row in zip(vectors, rows, strict=True):
        statuses = {status for values in row for status in values}
        # 1 is good; 2 is unverified: a quote is cut, so nobody can tell.
        assert "1" in statuses or "ecn" in vector.name, vector.name
        assert "0" not in statuses, vector.name


def _is_sent(verdict: object) -> bool:
    return isinstance(verdict, Forward)


MACS = {
    "host": "02:00:00:00:03:01",
    "near": "02:00:00:00:03:02",
    "far": "02:00:00:00:03:03",
    "out": "02:00:00:00:03:04",
}


class Kernel:
    """host ── router ── far: the router encapsulates, advances and decapsulates with Linux's seg6."""

    def __init__(self) -> None:
        self.host, self.router, self.far = Namespace("host"), Namespace("router"), Namespace("far")
        veth(self.host, "h0", self.router, "r0")
        veth(self.router, "r1", self.far, "f0")
        devices = (
            (self.host, "h0", "host"),
            (self.router, "r0", "near"),
            (self.router, "r1", "out"),
            (self.far, "f0", "far"),
        )
        for namespace, device, role in devices:
            namespace.ip("link", "set", device, "address", MACS[role])
        for name in ("all", "default", "r0", "r1"):
            self.router.run(
                "sysctl", "-qw", f"net.ipv6.conf.{name}.forwarding=1", f"net.ipv6.conf.{name}.seg6_enabled=1"
            )
            self.router.run("sysctl", "-qw", f"net.ipv4.conf.{name}.forwarding=1", f"net.ipv4.conf.{name}.rp_filter=0")
        self.router.ip("addr", "add", "10.1.0.1/24", "dev", "r0")
        self.router.ip("addr", "add", "2001:db8:1::1/64", "dev", "r0", "nodad")
        self.router.ip("addr", "add", f"{EDGE}/128", "dev", "lo", "nodad")
        self.router.ip("sr", "tunsrc", "set", EDGE)
        self.router.ip("-6", "neigh", "add", "fe80::99", "lladdr", MACS["far"], "dev", "r1")
        self.router.ip("-6", "route", "add", "5f00:2::/32", "via", "fe80::99", "dev", "r1")
        self.router.ip("-4", "route", "add", "192.0.2.0/24", "via", "inet6", "fe80::99", "dev", "r1")
        self.router.ip("-6", "route", "add", "2001:db8:ff::/48", "via", "fe80::99", "dev", "r1")

    def encapsulate(self, prefix: str, sids: list[str]) -> None:
        family = "-6" if ":" in prefix else "-4"
        segs = ",".join(sids)
        self.router.ip(
            family, "route", "replace", prefix, "encap", "seg6", "mode", "encap.red", "segs", segs, "dev", "r1"
        )

    def local(self, prefix: str, *action: str) -> None:
        self.router.ip("-6", "route", "replace", prefix, "encap", "seg6local", "action", *action, "dev", "r1")

    def sent(self, packet: Packet, ether_type: int) -> bytes:
        """What leaves the router towards `far` because of `packet`, without Ethernet."""
        with ExitStack() as stack:
            with self.far.entered():
                far = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
            far.bind(("f0", 0))
            far.settimeout(LIMIT_S)
            with self.host.entered():
                host = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
                host.bind(("h0", 0))
            near, here = (bytes.fromhex(MACS[role].replace(":", "")) for role in ("near", "host"))
            host.send(near + here + ether_type.to_bytes(2) + bytes(packet))
            deadline = time.monotonic() + LIMIT_S
            while time.monotonic() < deadline:
                ethernet = parse_ethernet(far.recv(4096))
                mine = ethernet.source == bytes.fromhex(MACS["out"].replace(":", ""))
                is_nd = ethernet.payload[6:7] == b"\x3a" and ethernet.payload[40:41] >= b"\x85"
                if mine and not (ethernet.ether_type == ETHERTYPE_IPV6 and (is_nd or ethernet.payload[6] == 0)):
                    return ethernet.payload
        raise AssertionError("the kernel sent nothing")

    def remove(self) -> None:
        for namespace in (self.host, self.router, self.far):
            namespace.remove()


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    try:
        yield made
    finally:
        made.remove()


@pytest.mark.root
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("count", range(1, 9))
def test_kernel_encapsulates_alike(kernel: Kernel, version: int, count: int) -> None:
    """H.Encaps.Red, field by field where RFC 8986 defines it: all but traffic class, flow label and hop limit.

    Linux does not decrement the inner hop limit on this path; RFC 8986 §5.1 wants it (as RFC 2473 §3.1).
    """
    ends = (A4, "10.2.99.10") if version == 4 else (A6, "2001:db8:2:99::10")
    packet = ip(version, *ends) / udp()
    kernel.encapsulate("10.2.99.0/24" if version == 4 else "2001:db8:2:99::/64", segments(count))
    theirs = kernel.sent(packet, ETHERTYPE_IPV4 if version == 4 else ETHERTYPE_IPV6)
    inner = parse_ip(ETHERTYPE_IPV4 if version == 4 else ETHERTYPE_IPV6, bytes(packet))
    assert isinstance(inner, Ip)
    sids = tuple(address(sid) for sid in segments(count))
    path = SegmentPath(address(EDGE), 0, sids, 0)
    ours = encapsulate(inner.with_hop_limit(63), path, sids[-1], 0, 0).data
    begin = 40 + (8 + 16 * (len(sids) - 1) if sids[1:] else 0)
    assert theirs[4:7] == ours[4:7], "payload length, next header"
    assert theirs[8:40] == ours[8:40], "source, destination"
    assert theirs[40:begin] == ours[40:begin], "SRH and segment list"
    their_inner = parse_ip(inner.ether_type, theirs[begin:])
    assert isinstance(their_inner, Ip)
    assert their_inner.data == inner.data
    assert ours[begin:] == their_inner.with_hop_limit(63).data, "inner packet"


@pytest.mark.root
@pytest.mark.parametrize("left", range(1, 8))
def test_kernel_takes_the_next_container_alike(kernel: Kernel, left: int) -> None:
    path = [f"5f00:2:10:{index}::" for index in range(8)]
    path[7 - left] = "5f00:1:1::"
    _ends_alike(kernel, srv6(bytes(IP(src="192.0.2.1", dst="192.0.2.2") / udp()), path, left))


@pytest.mark.root
@pytest.mark.parametrize("rest", ["2", "2:10:11:12:e005", "e005", "2:0:0:0:1"])
@pytest.mark.parametrize("with_srh", [True, False])
def test_kernel_takes_the_next_sid_alike(kernel: Kernel, rest: str, with_srh: bool) -> None:
    """The block is that of the routes, whatever the node's number is then."""
    container = f"5f00:2:1:{rest}" + ("" if rest.count(":") == 4 else "::")
    inner = bytes(IP(src="192.0.2.1", dst="192.0.2.2") / udp())
    bare = IPv6(src="5f00:2:10::", dst=container, hlim=60, nh=4) / Raw(inner)
    _ends_alike(kernel, srv6(inner, ["5f00:2:10:1::"], 1, destination=container) if with_srh else bare)


def _ends_alike(kernel: Kernel, packet: Packet) -> None:
    compressed = ("flavors", "next-csid", "lblen", "32", "nflen", "16")
    for locator in ("5f00:1:1::/48", "5f00:2:1::/48"):
        kernel.local(locator, "End", *compressed)
    ours = end(Outer(bytes(packet), len(bytes(packet))), 1)
    assert isinstance(ours, Outer)
    assert kernel.sent(packet, ETHERTYPE_IPV6) == ours.with_hop_limit(59).data


@pytest.mark.root
@pytest.mark.parametrize("with_srh", [True, False])
@pytest.mark.parametrize("version", [4, 6])
def test_kernel_decapsulates_alike(kernel: Kernel, version: int, with_srh: bool) -> None:
    """End.DX4/DX6, which take off the same headers as End.DT46 and need no VRF. Linux leaves the ECN as it is."""
    sid, hop = "5f00:1:1:3::", "192.0.2.9" if version == 4 else "2001:db8:ff::99"
    action = ("End.DX4", "nh4", hop) if version == 4 else ("End.DX6", "nh6", hop)
    kernel.router.ip("neigh", "replace", hop, "lladdr", MACS["far"], "dev", "r1")
    kernel.router.ip(f"-{version}", "route", "replace", hop, "dev", "r1")
    kernel.local(f"{sid}/128", *action)
    ends = ("10.2.1.1", "192.0.2.9") if version == 4 else ("2001:db8:2::1", "2001:db8:ff::9")
    inner = ip(version, *ends) / TCP(sport=1, dport=2) / Raw(PAYLOAD)
    protocol = 4 if version == 4 else 41
    bare = IPv6(src="5f00:2:10::", dst=sid, nh=protocol) / Raw(bytes(inner))
    packet = srv6(inner, ["5f00:2:10:1::", sid], 0, next_header=protocol) if with_srh else bare
    ours = decapsulate(Outer(bytes(packet), len(bytes(packet))))
    assert isinstance(ours, Ip)
    theirs = kernel.sent(packet, ETHERTYPE_IPV6)
    assert theirs in (ours.data, ours.with_hop_limit(63).data)


def test_rfc_1071_example() -> None:
    """RFC 1071 §3: the sum of 00 01 f2 03 f4 f5 f6 f7 is ddf2."""
    assert ones_complement_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2
    # RFC 1624 §4: HC = DD2F, m = 5555, m' = 3285 gives 0000.
    assert updated(0xDD2F, 0x5555, 0x3285) == 0x0000
    assert checksum(struct.pack("!H", 0xFFFF)) == 0
