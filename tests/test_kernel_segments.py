"""Linux' own SRv6 (seg6, seg6_local with NEXT-CSID) on the way of live packets, in both directions.

    a ─ port A ┐                        ┌ port B ─ b      our headend ─▶ kernel End ─▶ kernel End.X ─▶ our End.DT46
               ├ XDP ─ FABRIC ──── h1 ──┤ kernel
               └─────── FABRIC_2 ─ h8 ──┘                 kernel headend ─▶ our End or End.X ─▶ kernel End.DX6

Our node is 5f00:7:1, the kernel plays nodes 100 (End), 200 (End.X by function e00a) and 300 (the end of a path).
"""

import socket
from collections.abc import Iterator

import pytest
from namespaces import Namespace, veth
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw
from vectors import entries, node
from vectors.case import PAYLOAD, from_host, to_host
from vectors.node import A4, A6, EDGE, FABRIC, FABRIC_2, TABLES, TENANT, A, B, remote4, remote6
from waiting import LIMIT_S
from xdp_node import XdpNode

from dataplane.reasons import PipelineEvent

pytestmark = pytest.mark.root
BLOCK = "5f00:7"
SERVICE = f"{BLOCK}:1:e003::"
FROM_FABRIC, DELIVERED = 40, 41
"""Policy class and forwarding class of what comes out of a container here."""
PATHS = {
    "End": ([f"{BLOCK}:100::"], 16),
    "End and End.X": ([f"{BLOCK}:100:200:e00a::"], 48),
    "End.X": ([f"{BLOCK}:200:e00a::"], 32),
    "a service SID of its own": ([f"{BLOCK}:100::", "::"], 0),
    "two containers": ([f"{BLOCK}:100:100::", f"{BLOCK}:200:e00a::"], 32),
    "four containers": ([f"{BLOCK}:100::", f"{BLOCK}:100:100::", f"{BLOCK}:200:e00a::", f"{BLOCK}:100::"], 16),
}
SEGMENTS = {
    "End": f"{BLOCK}:1:300::",
    "End.X": f"{BLOCK}:1:e00b:300::",
    "End with a segment list": f"{BLOCK}:1::,{BLOCK}:300::",
    "End.X with a segment list": f"{BLOCK}:1:e00b::,{BLOCK}:300::",
    "End twice, by a container of the segment list": f"{BLOCK}:1:100::,{BLOCK}:1:300::",
}


def tables() -> list:
    return [
        *TABLES,
        entries.local_sid(1, f"{BLOCK}:1::/48", "end"),
        entries.local_sid(1, f"{BLOCK}:1:e00b::/64", "end_x", next_hop=FABRIC_2),
        entries.local_sid(1, f"{SERVICE}/128", "end_dt46", vrf=TENANT, policy_class=FROM_FABRIC),
        entries.route(0, f"{BLOCK}:100::/48", FABRIC),
        entries.route(0, f"{BLOCK}:300::/48", FABRIC_2),
        entries.policy(TENANT, 10, "permit", DELIVERED, FROM_FABRIC),
        entries.deliver(DELIVERED, TENANT),
        *(
            made
            for address, length in ((remote4(1), 32), (remote6(1), 128))
            for made in (
                entries.route(TENANT, f"{address}/{length}", 100 + B),
                entries.neighbor(B, address, node.host_mac(B)),
            )
        ),
    ]


@pytest.fixture(scope="module")
def xdp() -> Iterator[XdpNode]:
    made = XdpNode(node.PORTS)
    try:
        kernel = made.hosts
        for setting in ("all.forwarding=1", "all.seg6_enabled=1", "default.seg6_enabled=1"):
            kernel.run("sysctl", "-qw", f"net.ipv6.conf.{setting}")
        for port in (FABRIC, FABRIC_2):
            device, ours, mac = f"h{port}", f"fd00:{port}::2", node.port_mac(port)
            for setting in ("disable_ipv6=0", "seg6_enabled=1"):
                kernel.run("sysctl", "-qw", f"net.ipv6.conf.{device}.{setting}")
            # What XDP sends to `device` has the MAC that the tables say.
            kernel.ip("link", "set", device, "address", node.host_mac(port))
            kernel.ip("-6", "address", "add", f"fd00:{port}::1/64", "dev", device, "nodad")
            kernel.ip("-6", "neighbor", "replace", ours, "lladdr", mac, "dev", device, "nud", "permanent")
        compressed = ("flavors", "next-csid", "lblen", "32", "nflen")
        local = ("encap", "seg6local", "action")
        kernel.ip("-6", "route", "add", f"{BLOCK}:100::/48", *local, "End", *compressed, "16", "dev", f"h{FABRIC}")
        kernel.ip(
            *("-6", "route", "add", f"{BLOCK}:200:e00a::/64", *local, "End.X", "nh6", f"fd00:{FABRIC_2}::2"),
            *(*compressed, "32", "dev", f"h{FABRIC}"),
        )
        kernel.ip("-6", "route", "add", f"{BLOCK}:1::/48", "via", f"fd00:{FABRIC}::2")
        with made.inside():
            made.sync(tables())
            yield made
    finally:
        made.close()


def inner(version: int, hop_limit: int = 64) -> Packet:
    if version == 4:
        return IP(src=A4, dst=remote4(1), ttl=hop_limit) / UDP(sport=40000, dport=5060) / Raw(PAYLOAD)
    return IPv6(src=A6, dst=remote6(1), hlim=hop_limit) / UDP(sport=40000, dport=5060) / Raw(PAYLOAD)


def listen(namespace: Namespace, device: str, ether_type: int) -> socket.socket:
    with namespace.entered():
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ether_type))
    listener.bind((device, ether_type))
    listener.settimeout(LIMIT_S)
    return listener


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("containers", "merge_bits"), PATHS.values(), ids=PATHS.keys())
def test_the_kernels_nodes_lead_our_packets_on(
    xdp: XdpNode, containers: list[str], merge_bits: int, version: int
) -> None:
    path = entries.h_encaps(40, 0, EDGE, FABRIC, containers, merge_bits=merge_bits)
    ways = (entries.encapsulate(101, 40, 40, SERVICE, inner_mtu=1400), path, entries.live(40, 1))
    replaced = {(entry.table, entry.match) for entry in ways}
    xdp.sync([*(entry for entry in tables() if (entry.table, entry.match) not in replaced), *ways])
    before = xdp.events()
    with listen(xdp.hosts, f"h{B}", 0x0800 if version == 4 else 0x86DD) as arrivals:
        xdp.program.run_live(from_host(A, inner(version)), ifindex=xdp.ifindex[A], repeat=1, batch=1)
        assert arrivals.recv(4096) == to_host(B, inner(version, hop_limit=62))
    after = xdp.events()
    for event in (PipelineEvent.ENCAPSULATED, PipelineEvent.DECAPSULATED):
        assert after[event] == before[event] + 1


@pytest.fixture(scope="module")
def ends(xdp: XdpNode) -> Iterator[tuple[Namespace, Namespace]]:
    """A host on the kernel headend's side, and one behind the end of the path."""
    source, sink = Namespace("source"), Namespace("sink")
    try:
        for number, namespace in ((1, source), (2, sink)):
            device = f"end{number}"
            veth(xdp.hosts, device, namespace, "eth0")
            xdp.hosts.run("sysctl", "-qw", f"net.ipv6.conf.{device}.seg6_enabled=1")
            xdp.hosts.ip("-6", "address", "add", f"fd01:{number}::1/64", "dev", device, "nodad")
            namespace.ip("-6", "address", "add", f"fd01:{number}::2/64", "dev", "eth0", "nodad")
            namespace.ip("-6", "route", "add", "default", "via", f"fd01:{number}::1")
            namespace.run("ethtool", "-K", "eth0", "tx", "off")  # XDP sends checksums on as they are
        sink.ip("-6", "address", "add", "2001:db8:99::1/128", "dev", "lo", "nodad")
        xdp.hosts.ip(
            *("-6", "route", "add", f"{BLOCK}:300::/48", "encap", "seg6local", "action", "End.DX6"),
            *("nh6", "fd01:2::2", "dev", "end2"),
        )
        yield source, sink
    finally:
        source.remove()
        sink.remove()


@pytest.mark.parametrize("mode", ["encap", "encap.red"])
@pytest.mark.parametrize("segments", SEGMENTS.values(), ids=SEGMENTS.keys())
def test_we_lead_the_kernels_packets_on(
    xdp: XdpNode, ends: tuple[Namespace, Namespace], segments: str, mode: str
) -> None:
    source, sink = ends
    xdp.sync(tables())
    xdp.hosts.ip(
        *("-6", "route", "replace", "2001:db8:99::/64", "encap", "seg6", "mode", mode, "segs", segments),
        *("via", f"fd00:{FABRIC}::2", "dev", f"h{FABRIC}"),
    )
    before = xdp.events()[PipelineEvent.END]
    with sink.entered():
        receiver = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        receiver.bind(("2001:db8:99::1", 5060))
        receiver.settimeout(LIMIT_S)
    with source.entered():
        sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with receiver, sender:
        sender.sendto(PAYLOAD, ("2001:db8:99::1", 5060))
        data, (address, *_) = receiver.recvfrom(2048)
    assert (data, address) == (PAYLOAD, "fd01:1::2")
    assert xdp.events()[PipelineEvent.END] > before
