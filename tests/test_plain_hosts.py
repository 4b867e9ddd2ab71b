"""One node, and hosts that nobody has prepared: default offloads, no GRO, no XDP program; nothing of the lab.

```
 a ── pa ┐
 b ── pb ┤ node      all in one network, by detours
 c ── br0┤
 d ── mv ┤               mv: a macvlan, which like a card takes no group that nobody has joined
 vm ─ tap┘
```
"""

import contextlib
import fcntl
import os
import random
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from agents import AgentProcess, Bpffs
from controllers import Controller, entry
from namespaces import Namespace
from waiting import LIMIT_S, wait_for

from dataplane.entry import TableEntry
from dataplane.host_api import Gateway, HostState, PortStatus

pytestmark = pytest.mark.root
PORTS = {1: "pa", 2: "pb", 3: "br0", 4: "tap", 5: "mv"}
NETWORK, CLASS = 7, 300
STREAM = random.Random(7).randbytes(8 << 20)
DATAGRAMS = 200
VM_MAC = bytes.fromhex("020000000004")
TUNSETIFF, TAP_WITH_HEADER = 0x400454CA, 0x0002 | 0x1000 | 0x4000  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
NEEDS_CHECKSUM = 1
UDP_SEGMENT = 103


def ipv4(port: int) -> str:
    return f"10.1.0.1{port}"


def ipv6(port: int) -> str:
    return f"2001:db8:1::1{port}"


class PlainNode:
    def __init__(self, directory: Path, pins: Path) -> None:
        self.namespace = Namespace("node")
        self.hosts = {number: Namespace(f"host{number}") for number in (1, 2, 3, 5)}
        self.namespace.ip("link", "add", "br0", "type", "bridge")
        self.namespace.ip("link", "set", "br0", "up")
        for number, interface in ((1, "pa"), (2, "pb"), (3, "member"), (5, "card")):
            self.plug(number, interface)
        self.namespace.ip("link", "set", "member", "master", "br0")
        self.namespace.ip("link", "add", "mv", "link", "card", "type", "macvlan")
        self.namespace.ip("link", "set", "mv", "up")
        with self.namespace.entered():
            self.vm = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(self.vm, TUNSETIFF, struct.pack("16sH22x", b"tap", TAP_WITH_HEADER))
        self.namespace.ip("link", "set", "tap", "up")
        ports = [{"number": n, "interface": name, "role": "attachment"} for n, name in PORTS.items()]
        self.agent = AgentProcess(self.namespace, directory / "node", pins, ports=ports)

    def plug(self, number: int, interface: str) -> None:
        """A veth as `ip link add` makes it."""
        host = self.hosts[number]
        self.namespace.ip("link", "add", interface, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        self.namespace.ip("link", "set", interface, "up")
        host.ip("link", "set", "eth0", "up")
        host.ip("addr", "add", f"{ipv4(number)}/24", "dev", "eth0")
        host.ip("addr", "add", f"{ipv6(number)}/64", "dev", "eth0", "nodad")

    def start(self) -> None:
        self.agent.start()
        self.agent.sync(
            HostState(gateways=tuple(Gateway(port=n, ipv4="10.1.0.1", ipv6="2001:db8:1::1") for n in PORTS))
        )
        with contextlib.closing(Controller(self.agent)) as controller:
            controller.insert(*self.entries())

    def entries(self) -> Iterator[TableEntry]:
        ports = {port.number: port for port in self.agent.describe().ports}
        for address in ("10.1.0.0/24", "2001:db8:1::/64"):
            yield entry("source_group", "set_source_group", params={"group": 1}, vrf=NETWORK, address=address)
            yield entry("destination_group", "set_destination_group", params={"group": 1}, vrf=NETWORK, address=address)
        yield entry(
            "flow_policy",
            "permit",
            priority=10,
            params={"forwarding_class": CLASS},
            policy_class=NETWORK,
            source_group=(1, 0xFFFF),
            destination_group=(1, 0xFFFF),
        )
        yield entry("steer", "deliver", params={"vrf": NETWORK}, forwarding_class=CLASS)
        for number in PORTS:
            mac = ports[number].mac or "02:00:00:00:00:01"
            yield entry(
                "attachment", "attach", params={"vrf": NETWORK, "policy_class": NETWORK}, ingress_port=number, vlan_id=0
            )
            yield entry("next_hop", "resolve", params={"port": number, "source_mac": mac}, next_hop=number)
            for address, length in ((ipv4(number), 32), (ipv6(number), 128)):
                where = f"{address}/{length}"
                yield entry("source_guard", "admit", ingress_port=number, source=where)
                yield entry("route", "set_next_hop", params={"next_hop": number}, vrf=NETWORK, destination=where)

    def port(self, number: int) -> PortStatus:
        return next(port for port in self.agent.describe().ports if port.number == number)

    def remove(self) -> None:
        self.agent.remove()
        os.close(self.vm)
        for host in self.hosts.values():
            host.remove()
        self.namespace.remove()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainNode]:
    directory = tmp_path_factory.mktemp("plain")
    pins = Bpffs(directory / "bpf")
    made = PlainNode(directory, pins.path)
    try:
        made.start()
        yield made
    finally:
        made.remove()
        pins.remove()


PAIRS = pytest.mark.parametrize(
    ("source", "destination", "address"), [(1, 2, ipv4), (2, 1, ipv6), (1, 3, ipv6), (3, 2, ipv4), (5, 1, ipv6)]
)


@PAIRS
def test_tcp_udp_and_icmp_pass_between_hosts_with_default_offloads(
    node: PlainNode, source: int, destination: int, address: Callable[[int], str]
) -> None:
    near, far, to = node.hosts[source], node.hosts[destination], address(destination)
    assert "tx-checksumming: on" in near.run("ethtool", "-k", "eth0")
    reaches(near, to)
    assert "20 received" in near.run("ping", "-c20", "-i0.01", "-s1400", "-q", to)
    received, datagrams = stream(near, far, to), burst(near, far, to)
    assert received == STREAM
    assert datagrams == [(n.to_bytes(2) * 500) for n in range(DATAGRAMS)]


def test_a_virtual_machine_that_leaves_checksums_to_the_card_is_heard(node: PlainNode) -> None:
    """A frame as virtio gives it: the checksum field holds the pseudo header's sum only."""
    host = node.hosts[1]
    with host.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((ipv4(1), 7001))
        receiver.settimeout(LIMIT_S)
        gateway = bytes.fromhex(node.port(4).mac.replace(":", ""))
        os.write(node.vm, udp_frame(gateway, ipv4(4), ipv4(1), b"from a virtual machine"))
        assert receiver.recv(100) == b"from a virtual machine"
        answer_arp_until(node.vm, b"and back", lambda: receiver.sendto(b"and back", (ipv4(4), 7002)))


def test_what_serves_each_port_is_said(node: PlainNode) -> None:
    ports = {number: node.port(number) for number in PORTS}
    assert {number: (port.kind, port.way) for number, port in ports.items()} == {
        1: ("veth", "detour"),
        2: ("veth", "detour"),
        3: ("bridge", "detour"),
        4: ("tun", "detour"),
        5: ("macvlan", "detour"),
    }
    assert "neither GRO nor an XDP program" in ports[1].why
    assert "no native XDP" in ports[3].why
    assert "cannot be seen from here" in ports[4].why
    assert [port.faults for port in ports.values()] == [()] * 5


def test_a_port_whose_other_end_is_prepared_and_seen_is_native(node: PlainNode) -> None:
    """Both ends in the node's namespace, as for a container of the same network namespace."""
    ip = node.namespace.ip
    ip("link", "del", "pb")
    ip("link", "add", "pb", "type", "veth", "peer", "name", "far")
    try:
        node.namespace.run("ethtool", "-K", "far", "tx", "off", "gro", "on")
        for end in ("pb", "far"):
            ip("link", "set", end, "up")
        wait_for(lambda: node.port(2).way == "native")
        assert "prog/xdp" in ip("link", "show", "pb")
        node.namespace.run("ethtool", "-K", "far", "gro", "off")
        wait_for(lambda: node.port(2).way == "detour")
        wait_for(lambda: "prog/xdp" not in ip("link", "show", "pb"))  # the kernel frees a link when it comes to it
    finally:
        ip("link", "del", "pb")
        node.plug(2, "pb")
    wait_for(lambda: node.port(2).way == "detour")
    assert node.port(2).kind == "veth"


def test_an_interface_may_be_down_go_come_again_and_change_its_name_and_mtu(node: PlainNode) -> None:
    near, ip = node.hosts[2], node.namespace.ip
    reaches(near, ipv4(1))
    ip("link", "set", "pb", "down")
    wait_for(lambda: "pb is down: ip link set dev pb up" in node.port(2).faults)
    ip("link", "set", "pb", "up")
    reaches(near, ipv4(1))

    ip("link", "del", "pb")
    wait_for(lambda: any("no interface pb" in fault for fault in node.port(2).faults))
    node.plug(2, "pb")
    reaches(near, ipv6(1))

    ip("link", "set", "pb", "name", "other")
    wait_for(lambda: any("no interface pb" in fault for fault in node.port(2).faults))
    wait_for(lambda: "stitch-" not in node.namespace.run("tc", "filter", "show", "dev", "other", "ingress"))
    ip("link", "set", "other", "name", "pb")
    reaches(near, ipv4(1))

    for namespace, interface in (
        (node.namespace, "pb"),
        (near, "eth0"),
        (node.namespace, "pa"),
        (node.hosts[1], "eth0"),
    ):
        namespace.ip("link", "set", interface, "mtu", "3000")
    wait_for(lambda: "mtu 3000" in ip("link", "show", "stitch-p2") and "mtu 3000" in ip("link", "show", "stitch-p1"))
    assert "5 received" in near.run("ping", "-c5", "-i0.01", "-s2900", "-Mdo", "-q", ipv4(1))
    ip("link", "set", "pb", "mtu", "9000")
    wait_for(lambda: any("longer packets are lost" in fault for fault in node.port(2).faults))
    ip("link", "set", "pb", "mtu", "1500")
    wait_for(lambda: node.port(2).faults == ())


def test_the_next_agent_takes_detours_over_and_teardown_leaves_nothing(node: PlainNode) -> None:
    near, ip = node.hosts[1], node.namespace.ip
    before = ip("-br", "link")
    node.agent.end(signal.SIGKILL)
    reaches(near, ipv4(2))  # without an agent
    node.agent.start()
    assert ip("-br", "link") == before
    reaches(near, ipv4(2))
    node.agent.remove()
    assert "stitch-" not in ip("-o", "link")
    assert "stitch-" not in node.namespace.run("tc", "filter", "show", "dev", "pa", "ingress")


def reaches(host: Namespace, address: str) -> None:
    wait_for(lambda: "1 received" in host.run("sh", "-c", f"ping -c1 -W1 {address} || true"))


def stream(near: Namespace, far: Namespace, address: str) -> bytes:
    """What arrives of STREAM."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with far.entered():
        server = socket.create_server((address, 7000), family=family)
    with near.entered():
        client = socket.create_connection((address, 7000), timeout=LIMIT_S)
    received = bytearray()
    with server, client, ThreadPoolExecutor(1) as sender:
        server.settimeout(LIMIT_S)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(LIMIT_S)
            done = sender.submit(lambda: (client.sendall(STREAM), client.shutdown(socket.SHUT_WR)))
            while part := connection.recv(1 << 16):
                received += part
            done.result()
    return bytes(received)


def burst(near: Namespace, far: Namespace, address: str) -> list[bytes]:
    """Datagrams of 1,000 bytes, ten in one call, which the card shall take apart (UDP_SEGMENT, udp(7))."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with far.entered():
        receiver = socket.socket(family, socket.SOCK_DGRAM)
    with near.entered():
        sender = socket.socket(family, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.bind((address, 7003))
        receiver.settimeout(LIMIT_S)
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        received = []
        for first in range(0, DATAGRAMS, 10):
            sender.sendto(b"".join(n.to_bytes(2) * 500 for n in range(first, first + 10)), (address, 7003))
            received += [receiver.recv(2000) for _ in range(10)]
    return received


def udp_frame(gateway: bytes, source: str, destination: str, payload: bytes) -> bytes:
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    length = 8 + len(payload)
    pseudo = sum(struct.unpack("!6H", ends + struct.pack("!HH", 17, length)))
    pseudo = (pseudo & 0xFFFF) + (pseudo >> 16)
    ip = struct.pack("!BBHHHBBH8s", 0x45, 0, 20 + length, 0, 0, 64, 17, 0, ends)
    total = sum(struct.unpack("!10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    ip = ip[:10] + struct.pack("!H", ~total & 0xFFFF) + ip[12:]
    udp = struct.pack("!HHHH", 7002, 7001, length, pseudo) + payload
    header = struct.pack("<BBHHHH", NEEDS_CHECKSUM, 0, 0, 0, 14 + 20, 6)
    return header + gateway + VM_MAC + b"\x08\x00" + ip + udp


def answer_arp_until(vm: int, wanted: bytes, send: Callable[[], object]) -> None:
    """Answers as the virtual machine until a frame has `wanted`: what is sent before is lost to the question."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if not select.select([vm], [], [], 0.2)[0]:
            send()
            continue
        frame = os.read(vm, 4096)[10:]
        if wanted in frame:
            return
        if frame[12:14] == b"\x08\x06" and frame[38:42] == socket.inet_aton(ipv4(4)):
            ends = VM_MAC + frame[38:42] + frame[22:32]
            os.write(vm, bytes(10) + frame[6:12] + VM_MAC + frame[12:20] + b"\x00\x02" + ends)
    raise AssertionError("nothing arrived at the virtual machine")
