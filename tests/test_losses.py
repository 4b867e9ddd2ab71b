"""What a port does not take is counted, whatever the port is: packets sent = packets received + packets counted.

```
 near ── p1 ┐       native
 far2 ── p2 ┤ node  native
 far3 ── p3 ┤       native, though who is behind it takes nothing that XDP sends
 far4 ── p4 ┤       detour
 p5, p6     ┘       two TAPs: native, and a detour
```
"""

import contextlib
import errno
import fcntl
import os
import signal
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import AgentProcess, Bpffs
from controllers import Controller, entry
from namespaces import Namespace
from waiting import wait_for

from dataplane.entry import TableEntry
from dataplane.host_api import Empty, Gateway, HostState, LossReport
from dataplane.reasons import DropReason, PortLoss
from dataplane.telemetry.losses import LASTING, Losses

NETWORK, CLASS = 7, 300
NATIVE, UNPREPARED, DETOUR, TAP, TAP_DETOUR = 2, 3, 4, 5, 6
VETHS = (1, NATIVE, UNPREPARED, DETOUR)
TUNSETIFF, WITHOUT_HEADER = 0x400454CA, 0x0002 | 0x1000  # IFF_TAP, IFF_NO_PI
TAP_MAC = "02:00:00:00:00:01"
IP_MTU_DISCOVER, NEVER, ALWAYS = 10, 0, 2
"""linux/in.h: whether a packet has DF."""
SENT = 200
TAP_QUEUE = 50


def address(port: int) -> str:
    return f"10.1.0.1{port}"


class Node:
    def __init__(self, directory: Path, pins: Path) -> None:
        self.namespace = Namespace("node")
        self.hosts = {number: Namespace(f"host{number}") for number in VETHS}
        for number, host in self.hosts.items():
            self.namespace.ip("link", "add", f"p{number}", "type", "veth", "peer", "name", "eth0", "netns", host.name)
            self.namespace.ip("link", "set", f"p{number}", "up")
            host.run("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")
            self.namespace.run("sysctl", "-qw", f"net.ipv6.conf.p{number}.disable_ipv6=1")
            host.ip("link", "set", "eth0", "up")
            host.ip("addr", "add", f"{address(number)}/24", "dev", "eth0")
            if number in (1, NATIVE):
                host.run("ethtool", "-K", "eth0", "gro", "on", "tx", "off")
        self.taps = [self._tap(number) for number in (TAP, TAP_DETOUR)]
        ways = {1: "native", NATIVE: "native", UNPREPARED: "native", DETOUR: "detour", TAP: "native"}
        ports = [
            {"number": n, "interface": f"p{n}", "role": "attachment", "way": ways.get(n, "detour")} for n in range(1, 7)
        ]
        self.metrics = directory / "metrics"
        self.agent = AgentProcess(self.namespace, directory / "node", pins, ports=ports, metrics=f"unix:{self.metrics}")

    def _tap(self, number: int) -> int:
        with self.namespace.entered():
            tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", f"p{number}".encode(), WITHOUT_HEADER))
        self.namespace.ip("link", "set", f"p{number}", "txqueuelen", str(TAP_QUEUE))
        self.namespace.run("sysctl", "-qw", f"net.ipv6.conf.p{number}.disable_ipv6=1")
        self.namespace.ip("link", "set", f"p{number}", "up")
        return tap

    def start(self) -> None:
        self.agent.start()
        self.agent.sync(HostState(gateways=(Gateway(port=1, ipv4="10.1.0.1"),)))
        with contextlib.closing(Controller(self.agent)) as controller:
            controller.insert(*self._entries())

    def _entries(self) -> Iterator[TableEntry]:
        macs = {port.number: port.mac for port in self.agent.describe().ports}
        for table, action in (("source_group", "set_source_group"), ("destination_group", "set_destination_group")):
            yield entry(table, action, params={"group": 1}, vrf=NETWORK, address="10.1.0.0/24")
        groups = {"source_group": (1, 0xFFFF), "destination_group": (1, 0xFFFF)}
        yield entry(
            "flow_policy", "permit", priority=10, params={"forwarding_class": CLASS}, policy_class=NETWORK, **groups
        )
        yield entry("steer", "deliver", params={"vrf": NETWORK}, forwarding_class=CLASS)
        yield entry("attachment", "attach", params={"vrf": NETWORK, "policy_class": NETWORK}, ingress_port=1, vlan_id=0)
        yield entry("source_guard", "admit", ingress_port=1, source=f"{address(1)}/32")
        for number in range(2, 7):
            mac = self.hosts[number].ip("-br", "link", "show", "eth0").split()[2] if number in self.hosts else TAP_MAC
            to = {"port": number, "source_mac": macs[number], "destination_mac": mac}
            yield entry("next_hop", "forward", params=to, next_hop=number)
            there = f"{address(number)}/32"
            yield entry("route", "set_next_hop", params={"next_hop": number}, vrf=NETWORK, destination=there)

    def counted(self) -> Counter[tuple[str, DropReason]]:
        """By interface, and by reason."""
        report = self.agent.ask("ReadLosses", Empty(), LossReport)
        counts = Counter({(each.interface, DropReason(each.reason)): each.packets for each in report.losses})
        with contextlib.closing(Controller(self.agent, election_id=2)) as controller:
            for reason, (packets, _) in controller.counter("drop_counter").items():
                if reason not in (DropReason.UNKNOWN_ATTACHMENT, DropReason.NEIGHBOR_IGNORED):  # what hosts ask by ARP
                    counts["", DropReason(reason)] += packets
        return counts

    def send(self, number: int, size: int = 100, packets: int = SENT) -> None:
        with self.hosts[1].entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(packets):
                sender.sendto(bytes(size), (address(number), 9))

    def received(self, number: int) -> int:
        if number in self.hosts:
            lines = self.hosts[number].run("cat", "/proc/net/snmp").splitlines()
            names, values = (line.split() for line in lines if line.startswith("Ip:"))
            return int(values[names.index("InReceives")])
        frames = 0
        with contextlib.suppress(BlockingIOError):
            while frame := os.read(self.taps[number - TAP], 4096):
                frames += frame[12:14] == b"\x08\x00"
        return frames

    def remove(self) -> None:
        self.agent.remove()
        for tap in self.taps:
            os.close(tap)
        for host in self.hosts.values():
            host.remove()
        self.namespace.remove()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    directory = tmp_path_factory.mktemp("losses")
    pins = Bpffs(directory / "bpf")
    made = Node(directory, pins.path)
    try:
        made.start()
        made.send(NATIVE, packets=1)  # by which the host asks for our MAC
        wait_for(lambda: made.received(NATIVE))
        yield made
    finally:
        made.remove()
        pins.remove()


Step = tuple[str, ...]
"""`node` or `host`, and what `ip` is told there."""
DOWN, UP = ("down",), ("up",)


@pytest.mark.root
@pytest.mark.parametrize(
    ("number", "where", "change", "back", "size", "reasons"),
    [
        pytest.param(NATIVE, "node", DOWN, UP, 100, {DropReason.PORT_DOWN}, id="native, down"),
        pytest.param(NATIVE, "host", DOWN, UP, 100, {DropReason.PORT_DOWN}, id="native, no carrier"),
        pytest.param(
            NATIVE, "host", ("mtu", "600"), ("mtu", "1500"), 1000, {DropReason.PORT_FULL}, id="native, small other end"
        ),
        pytest.param(
            UNPREPARED, "", (), (), 100, {DropReason.PORT_DOWN, DropReason.PORT_UNFIT}, id="native, nobody takes it"
        ),
        pytest.param(DETOUR, "node", DOWN, UP, 100, {DropReason.KERNEL_LOST}, id="detour, down"),
        pytest.param(DETOUR, "host", DOWN, UP, 100, {DropReason.KERNEL_LOST}, id="detour, no carrier"),
        pytest.param(
            DETOUR, "host", ("mtu", "600"), ("mtu", "1500"), 1000, {DropReason.KERNEL_LOST}, id="detour, small end"
        ),
        pytest.param(TAP, "", (), (), 100, {DropReason.PORT_FULL}, id="tap, nobody reads"),
        pytest.param(TAP, "node", DOWN, UP, 100, {DropReason.PORT_DOWN}, id="tap, down"),
        pytest.param(TAP_DETOUR, "", (), (), 100, {DropReason.KERNEL_LOST}, id="tap by a detour, nobody reads"),
        pytest.param(TAP_DETOUR, "node", DOWN, UP, 100, {DropReason.KERNEL_LOST}, id="tap by a detour, down"),
    ],
)
def test_what_was_sent_has_arrived_or_is_counted(
    node: Node, number: int, where: str, change: Step, back: Step, size: int, reasons: set[DropReason]
) -> None:
    namespace = node.namespace if where == "node" else node.hosts.get(number)
    device = f"p{number}" if where == "node" else "eth0"
    node.received(number)
    if where:
        assert namespace is not None
        namespace.ip("link", "set", device, *change)
    received, before = node.received(number) if number in node.hosts else 0, node.counted()
    arrived = 0

    def accounted() -> int:
        nonlocal arrived
        lost = (node.counted() - before).total()
        if number in node.hosts:
            arrived = node.received(number) - received
        elif lost + TAP_QUEUE >= SENT:  # only then anybody reads
            arrived += node.received(number)
        return arrived + lost

    try:
        node.send(number, size)
        wait_for(lambda: accounted() >= SENT)
        lost = node.counted() - before
        assert accounted() == SENT, lost
        assert {reason for _, reason in lost} <= reasons, lost
        assert lost.total() >= SENT - TAP_QUEUE if number not in node.hosts else lost.total() == SENT
    finally:
        if where:
            assert namespace is not None
            namespace.ip("link", "set", device, *back)


@pytest.mark.root
def test_frames_that_a_detour_does_not_take_are_counted_too(node: Node) -> None:
    """XDP takes frames of one page; the interface and its host have been told of larger ones."""
    host, port = node.hosts[DETOUR], next(port for port in node.agent.describe().ports if port.number == DETOUR)
    for namespace, device in ((node.namespace, f"p{DETOUR}"), (host, "eth0")):
        namespace.ip("link", "set", device, "mtu", "9000")
    host.ip("neigh", "replace", address(NATIVE), "lladdr", port.mac, "dev", "eth0")
    try:
        kernel = f"stitch-k{DETOUR}"
        wait_for(lambda: "mtu 1500" not in node.namespace.ip("link", "show", kernel))
        before = node.counted()
        with host.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(SENT):
                sender.sendto(bytes(6000), (address(NATIVE), 9))
        wait_for(lambda: (node.counted() - before)[kernel, DropReason.KERNEL_LOST] >= SENT)
        assert (node.counted() - before)[kernel, DropReason.KERNEL_LOST] == SENT
    finally:
        for namespace, device in ((node.namespace, f"p{DETOUR}"), (host, "eth0")):
            namespace.ip("link", "set", device, "mtu", "1500")


@pytest.mark.root
def test_what_is_too_large_for_a_hosts_port_is_cut_or_told_of(node: Node) -> None:
    """The MTU is lowered while packets flow, and its pieces are lost as whole packets are: counted."""
    node.namespace.ip("link", "set", f"p{NATIVE}", "mtu", "600")
    try:
        with node.hosts[1].entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:

            def send(discover: int) -> bool:
                """Whether the kernel did not know that it is too large."""
                sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, discover)
                try:
                    sender.sendto(bytes(1000), (address(NATIVE), 9))
                except OSError as error:
                    assert error.errno == errno.EMSGSIZE
                    return False
                return True

            def arrives() -> bool:
                before = node.received(NATIVE)
                send(NEVER)
                return node.received(NATIVE) == before + 2

            wait_for(arrives, "two pieces of a packet")
            node.hosts[NATIVE].ip("link", "set", "eth0", "down")
            before = node.counted()
            for _ in range(20):
                assert send(NEVER)
            lost = (f"p{NATIVE}", DropReason.PORT_DOWN)
            wait_for(lambda: (node.counted() - before)[lost] >= 40)
            assert node.counted() - before == Counter({lost: 40})
            wait_for(lambda: not send(ALWAYS), "the sender is told")
    finally:
        node.hosts[NATIVE].ip("link", "set", "eth0", "up")
        node.namespace.ip("link", "set", f"p{NATIVE}", "mtu", "1500")


class Redirects:
    """Its ports lose as many packets as it is told."""

    def __init__(self) -> None:
        self.counts: dict[tuple[int, PortLoss], int] = {}

    def lost(self) -> dict[tuple[int, PortLoss], int]:
        return dict(self.counts)


def test_a_port_that_loses_packets_all_the_time_is_a_fault_and_one_that_lost_some_is_none() -> None:
    redirects = Redirects()
    losses = Losses(redirects, lambda: ())
    seen = []
    for look in range(2 * LASTING):
        redirects.counts[1, PortLoss.FULL] = 10 * min(look + 1, LASTING)
        redirects.counts[2, PortLoss.DOWN] = 7
        seen.append(losses.look())
    assert seen == [frozenset()] * (LASTING - 1) + [frozenset({1})] + [frozenset()] * LASTING


def test_losses_are_told_with_the_name_of_the_port() -> None:
    redirects = Redirects()
    redirects.counts = {(3, PortLoss.TOO_BIG): 5, (2, PortLoss.UNFIT): 1}
    losses = Losses(redirects, lambda: ())
    losses.unsent[3] += 2
    told = losses.read(lambda number: f"eth{number}")
    assert [(each.interface, each.reason, each.packets) for each in told] == [
        ("eth2", DropReason.PORT_UNFIT, 1),
        ("eth3", DropReason.TOO_BIG, 7),
    ]


@pytest.mark.root
def test_who_takes_over_goes_on_counting(node: Node) -> None:
    """Also what is lost while no agent runs."""
    before = node.counted()
    node.agent.end(signal.SIGKILL)
    node.send(UNPREPARED, packets=7)
    node.agent.start()
    wait_for(lambda: (node.counted() - before).total() == 7)
    assert "redirects_not_followed" not in node.agent.log
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(node.metrics))
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        told = b"".join(iter(lambda: client.recv(1 << 16), b"")).decode()
    (line,) = (line for line in told.splitlines() if line.startswith("netstitch_lost_packets_total") and '"p3"' in line)
    assert float(line.split()[-1]) == node.counted()["p3", DropReason.PORT_UNFIT]
