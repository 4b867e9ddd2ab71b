"""Two domains, an agent each, one WireGuard tunnel between: a host of one reaches a host of the other.

```
 cx1 ─ 2 se ═══ sg1-t1 (port 100) ═══ ie 2 ─ ay1
```
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import pytest
from agents import AgentProcess, Bpffs
from controllers import Controller, entry
from echo_load import no_packet_lost
from namespaces import Namespace, veth
from waiting import LIMIT_S, wait_for

from dataplane.entry import TableEntry
from dataplane.host_api import (
    BorderStatus,
    Empty,
    FlowBatch,
    FlowQuery,
    FlowRecord,
    Gateway,
    HostReport,
    HostState,
    LossReport,
    Tunnel,
    TunnelKeys,
)
from dataplane.reasons import DropReason, L4Class

pytestmark = pytest.mark.root
NETWORK, CLASS_OUT, CLASS_BACK = 7, 300, 301
TUNNEL_CLASS = 2
INNER_MTU = 1280
WIREGUARD_BYTES = 60
"""Of IPv4, UDP and WireGuard around a packet."""
NOT_OF_THE_LINK = "(ip or ip6) and not src net fe80::/10"
"""The kernels at both ends say who they are on the link (ND, MLD)."""
EXACT = 0xF
PERMITTED = (
    (L4Class.ECHO_REQUEST, EXACT),
    (L4Class.ECHO_REPLY, EXACT),
    (L4Class.ICMP_ERROR, EXACT),
    (L4Class.TCP_OPEN, 0xE),
)
"""(l4_class, mask): pings and any TCP."""
STREAM_BYTES = 4 << 20
SENT_IN_VAIN = 2000


@dataclass(frozen=True, kw_only=True)
class Side:
    name: str
    far: str
    underlay: str
    sid_block: str
    """Of 48 bits; End.DT46 is function 7."""
    ipv4: str
    ipv6: str

    @property
    def dt46(self) -> str:
        return f"{self.sid_block}7::"


WEST = Side(name="se", far="ie", underlay="192.0.2.1", sid_block="5f00:1:1:", ipv4="10.1.0.", ipv6="2001:db8:1::")
EAST = Side(name="ie", far="se", underlay="192.0.2.2", sid_block="5f00:2:1:", ipv4="10.2.0.", ipv6="2001:db8:2::")


class Domain:
    """A node with one host, its agent and its controller."""

    def __init__(self, side: Side, directory: Path, pins: Path, *, prepared: bool, underlay_mtu: int) -> None:
        """`prepared`: the host sends whole frames and takes redirected ones, so that XDP serves it natively."""
        self.side = side
        self.namespace, self.host = Namespace(side.name), Namespace(f"host-{side.name}")
        veth(self.namespace, "p-host", self.host, "eth0")
        ports = [
            {"number": 2, "interface": "p-host", "role": "attachment"} | ({"way": "native"} if prepared else {}),
            {"number": 3, "interface": f"u-{side.far}", "role": "underlay"},
        ]
        border = {"name": "west-east", "port": 100, "interface": f"u-{side.far}", "address": f"{side.underlay}/30"}
        ports_of_wireguard = {"listen_port": 51820, "second_listen_port": 51821}
        borders = [{**border, **ports_of_wireguard, "mtu": underlay_mtu - WIREGUARD_BYTES}]
        self.agent = AgentProcess(self.namespace, directory / side.name, pins, ports=ports, borders=borders)
        self.host.ip("addr", "add", f"{side.ipv4}11/24", "dev", "eth0")
        self.host.ip("addr", "add", f"{side.ipv6}11/64", "dev", "eth0", "nodad")
        self.host.ip("route", "add", "default", "via", f"{side.ipv4}1")
        self.host.ip("-6", "route", "add", "default", "via", f"{side.ipv6}1")
        if prepared:
            self.host.run("ethtool", "-K", "eth0", "tx", "off", "tso", "off", "gso", "off", "gro", "on")

    def border(self) -> BorderStatus:
        return self.agent.describe().borders[0]

    def connect(self, far: "Domain") -> None:
        self.sync(tunnel_to(far, far.border()))

    def sync(self, *tunnels: Tunnel) -> None:
        gateway = Gateway(port=2, ipv4=f"{self.side.ipv4}1", ipv6=f"{self.side.ipv6}1")
        report = self.agent.ask("Sync", HostState(gateways=(gateway,), tunnels=tunnels), HostReport)
        assert not report.refused, report.refused

    def tunnels(self) -> tuple[Tunnel, ...]:
        return self.agent.describe().host_state.tunnels

    def keys(self, epoch: int) -> TunnelKeys:
        return next(keys for keys in self.border().keys if keys.epoch == epoch)

    def entries(self, far: Side) -> list[TableEntry]:
        """The network of the host, permitted to ping the far one, to use TCP with it, and to answer."""
        near, border = self.side, self.border()
        (port,) = (port for port in self.agent.describe().ports if port.number == 2)
        made = [
            entry("attachment", "attach", params={"vrf": NETWORK, "policy_class": NETWORK}, ingress_port=2, vlan_id=0),
            entry("attachment", "link", params={"ingress_class": TUNNEL_CLASS}, ingress_port=100, vlan_id=0),
            entry("source_guard", "admit", ingress_port=2, source=f"{near.ipv4}11/32"),
            entry("source_guard", "admit", ingress_port=2, source=f"{near.ipv6}11/128"),
            entry(
                "local_sid",
                "end_dt46",
                params={"vrf": NETWORK, "policy_class": NETWORK, "answer_class": CLASS_OUT},
                ingress_class=TUNNEL_CLASS,
                destination=f"{near.dt46}/128",
            ),
            entry(
                "steer",
                "encapsulate",
                params={"sr_policy": 5, "service_sid": far.dt46, "inner_mtu": INNER_MTU},
                forwarding_class=CLASS_OUT,
            ),
            entry("steer", "deliver", params={"vrf": NETWORK}, forwarding_class=CLASS_BACK),
            entry(
                "sr_policy",
                "h_encaps",
                priority=8,
                params={"source": f"{near.sid_block}1::", "first_hop": 1, "color": 9},
                sr_policy=5,
                live=(1, 1),
            ),
            entry("path_liveness", "set_live", params={"live": 1}, liveness_group=0),
            entry(
                "next_hop",
                "forward",
                params={"port": 100, "source_mac": border.mac, "destination_mac": border.kernel_mac},
                next_hop=1,
            ),
            entry("next_hop", "resolve", params={"port": 2, "source_mac": port.mac}, next_hop=2),
        ]
        for here, there in ((f"{near.ipv4}0/24", f"{far.ipv4}0/24"), (f"{near.ipv6}/64", f"{far.ipv6}/64")):
            made += [
                entry("route", "set_next_hop", params={"next_hop": 2}, vrf=NETWORK, destination=here),
                entry("source_group", "set_source_group", params={"group": 1}, vrf=NETWORK, address=here),
                entry("source_group", "set_source_group", params={"group": 2}, vrf=NETWORK, address=there),
                entry("destination_group", "set_destination_group", params={"group": 1}, vrf=NETWORK, address=here),
                entry("destination_group", "set_destination_group", params={"group": 2}, vrf=NETWORK, address=there),
            ]
        for l4_class in PERMITTED:
            for source, destination, forwarding_class in ((1, 2, CLASS_OUT), (2, 1, CLASS_BACK)):
                made.append(
                    entry(
                        "flow_policy",
                        "permit",
                        priority=10,
                        params={"forwarding_class": forwarding_class},
                        policy_class=NETWORK,
                        source_group=(source, 0xFFFF),
                        destination_group=(destination, 0xFFFF),
                        l4_class=l4_class,
                    )
                )
        return made

    def remove(self) -> None:
        self.agent.remove()
        self.host.remove()
        self.namespace.remove()


def tunnel_to(far: Domain, end: BorderStatus | TunnelKeys) -> Tunnel:
    first = Tunnel(
        border="west-east",
        peer_public_key=end.public_key,
        peer_endpoint=end.endpoint,
        allowed_ips=(f"{far.side.sid_block}:/48",),
    )
    if isinstance(end, BorderStatus):
        return first
    keepalive_s = 25 if end.kem_ciphertext else 0
    renewed = msgspec.structs.replace(first, epoch=end.epoch, persistent_keepalive_s=keepalive_s)
    return msgspec.structs.replace(renewed, kem_key=end.kem_key, kem_ciphertext=end.kem_ciphertext)


@pytest.fixture(params=[("prepared", 1500), ("untouched", 1350)], ids=["prepared", "untouched"])
def domains(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Domain, Domain]]:
    """Also over an underlay that has no room for what is inside: there the kernel fragments WireGuard's packets."""
    pins = Bpffs(tmp_path / "bpf")
    kind, underlay_mtu = request.param
    west, east = (
        Domain(side, tmp_path, pins.path, prepared=kind == "prepared", underlay_mtu=underlay_mtu)
        for side in (WEST, EAST)
    )
    veth(west.namespace, "u-ie", east.namespace, "u-se", mtu=underlay_mtu)
    for domain in (west, east):
        domain.namespace.ip("addr", "add", f"{domain.side.underlay}/30", "dev", f"u-{domain.side.far}")
    try:
        for domain in (west, east):
            domain.agent.start()
        for domain, far in ((west, east), (east, west)):
            domain.connect(far)
            controller = Controller(domain.agent)
            controller.insert(*domain.entries(far.side))
            controller.close()
        yield west, east
    finally:
        for domain in (west, east):
            domain.remove()
        pins.remove()


def all_send(domains: Sequence[Domain], epoch: int) -> bool:
    return all(domain.keys(epoch).sends for domain in domains)


def first_answer_s(domain: Domain, address: str) -> float:
    begin = time.monotonic()
    while time.monotonic() - begin < LIMIT_S:
        if "1 received" in domain.host.run("sh", "-c", f"ping -c1 -W1 {address} || true"):
            return time.monotonic() - begin
    raise AssertionError(
        f"{address} does not answer; agent: {domain.agent.log}; {Controller(domain.agent, 2).counter('drop_counter')}"
    )


def last_pings(flows: Sequence[FlowRecord]) -> FlowRecord:
    """Of the west's host; each run of ping has an identifier of its own."""
    pings = (flow for flow in flows if flow.l4_class == L4Class.ECHO_REQUEST and flow.source_address == "10.1.0.11")
    return max(pings, key=lambda ping: ping.last_seen_s)


def test_a_host_reaches_the_other_domains_host_through_the_tunnel(domains: tuple[Domain, Domain]) -> None:
    west, east = domains
    print(f"first answer {first_answer_s(west, '10.2.0.11'):.2f} s after the entries were written")
    for domain, addresses in ((west, ("10.2.0.11", "2001:db8:2::11")), (east, ("10.1.0.11", "2001:db8:1::11"))):
        for address in addresses:
            first_answer_s(domain, address)
            assert "20 received" in domain.host.run("ping", "-c20", "-i0.01", "-W10", "-q", address)

    # Each side counted what the hosts sent: requests and answers, both directions.
    flows = west.agent.ask("ReadFlows", FlowQuery(forwarding_class=CLASS_OUT), FlowBatch).flows
    requests = last_pings(flows)
    assert (requests.destination_address, requests.policy_class, requests.ingress_port) == ("10.2.0.11", NETWORK, 2)
    assert requests.packets == 20
    assert requests.bytes == requests.packets * 84
    arrived = east.agent.ask("ReadFlows", FlowQuery(forwarding_class=CLASS_BACK), FlowBatch).flows
    decapsulated = last_pings(arrived)
    assert (decapsulated.ingress_port, decapsulated.packets) == (0, requests.packets)
    assert decapsulated.source_port == decapsulated.destination_port == requests.source_port, "the identifier"
    assert abs(requests.last_seen_s - time.time()) < LIMIT_S
    assert west.border().latest_handshake_s > time.time() - LIMIT_S

    # What no entry permits is dropped, with its reason counted at the source's edge.
    before = drops(west).get(DropReason.NOT_PERMITTED, (0, 0))[0]
    with west.host.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for _ in range(5):
            udp.sendto(b"x", ("10.2.0.11", 9000))
    assert drops(west)[DropReason.NOT_PERMITTED][0] == before + 5


def test_packets_of_any_size_arrive_whole(domains: tuple[Domain, Domain]) -> None:
    """Fragments, what is cut at the edge since it has no DF, and the largest that every IPv6 link must take."""
    for near, addresses in zip(
        domains, (("10.2.0.11", "2001:db8:2::11"), ("10.1.0.11", "2001:db8:1::11")), strict=True
    ):
        for address in addresses:
            first_answer_s(near, address)
            assert "10 received" in pinged(near, address, "-s", "1232" if ":" in address else "1252")
            if ":" in address:  # the host learns from the first ones how large its fragments may be
                pinged(near, address, "-s", "4000", "-c2")
            assert "10 received" in pinged(near, address, "-s", "4000")
        assert "10 received" in pinged(near, addresses[0], "-M", "dont", "-s", "1472")
    assert all(DropReason.FRAGMENT_REFUSED not in drops(domain) for domain in domains)


def pinged(near: Domain, address: str, *options: str) -> str:
    return near.host.run("sh", "-c", f"ping -c10 -i0.02 -W2 -q {' '.join(options)} {address} || true")


@pytest.mark.parametrize("address", ["10.2.0.11", "2001:db8:2::11"])
def test_a_tcp_stream_crosses_the_tunnel_with_right_checksums(domains: tuple[Domain, Domain], address: str) -> None:
    west, east = domains
    first_answer_s(west, address)
    sent = random.Random(1).randbytes(STREAM_BYTES)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with east.host.entered():
        server = socket.create_server((address, 7000), family=family)
    with west.host.entered():
        client = socket.create_connection((address, 7000), timeout=LIMIT_S)
    with server, client, ThreadPoolExecutor(1) as sender:
        server.settimeout(LIMIT_S)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(LIMIT_S)
            begin = time.monotonic()
            done = sender.submit(send_all, client, sent)
            received = bytearray()
            while part := connection.recv(1 << 16):
                received += part
            done.result()
    took = time.monotonic() - begin
    assert received == sent
    print(f"{STREAM_BYTES * 8 / took / 1e6:.0f} Mbit/s")
    assert (bad_checksums(west.host), bad_checksums(east.host)) == (0, 0)


def send_all(client: socket.socket, sent: bytes) -> None:
    client.sendall(sent)
    client.shutdown(socket.SHUT_WR)


def bad_checksums(host: Namespace) -> int:
    """TCP segments that arrived broken (RFC 4022: tcpInErrs, the part of checksums)."""
    names, values = [line.split() for line in host.run("cat", "/proc/net/snmp").splitlines() if line.startswith("Tcp:")]
    return int(values[names.index("InCsumErrors")])


def test_what_crosses_the_border_is_wireguard_only(domains: tuple[Domain, Domain]) -> None:
    west, _ = domains
    first_answer_s(west, "10.2.0.11")
    dump = subprocess.Popen(
        west.namespace.command("tcpdump", "-n", "-c", "20", "-i", "u-ie", "--immediate-mode", NOT_OF_THE_LINK),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert dump.stderr is not None
    while "listening on" not in dump.stderr.readline():
        pass
    west.host.run("ping", "-c20", "-i0.01", "-W10", "-q", "10.2.0.11")
    lines = dump.communicate(timeout=LIMIT_S)[0].splitlines()
    assert len(lines) == 20
    assert [line for line in lines if ".51820 > " not in line or ".51820: UDP" not in line] == []


def test_killing_an_agent_under_load_loses_nothing(domains: tuple[Domain, Domain]) -> None:
    west, east = domains
    first_answer_s(west, "10.2.0.11")
    with no_packet_lost(west.host.command, "10.2.0.11", rate=500) as load:
        west.agent.end(signal.SIGKILL)
        load.answered()
        took = west.agent.start()
    print(f"taken over in {took:.2f} s")
    assert west.agent.logged("pipeline")[0]["taken_over"]
    with contextlib.closing(Controller(west.agent)) as controller:
        written = {present.SerializeToString() for present in controller.entries() if not present.is_default_action}
    assert len(written) == len(west.entries(east.side))
    assert "10 received" in pinged(west, "10.2.0.11", "-M", "dont", "-s", "4000")


@pytest.mark.parametrize("domains", [("prepared", 1500)], indirect=True)
def test_renewing_keys_under_load_loses_nothing(domains: tuple[Domain, Domain]) -> None:
    """Also where the neighbour's agent is killed after each message, and comes back."""
    west, east = domains
    first_answer_s(west, "10.2.0.11")
    with no_packet_lost(west.host.command, "10.2.0.11", rate=500) as load:
        for epoch in range(1, 4):
            kills = epoch == 2

            def killed(kills: bool = kills) -> None:
                if kills:
                    east.agent.end(signal.SIGKILL)
                    load.answered()
                    east.agent.start()

            begun = Tunnel(border="west-east", peer_public_key="", peer_endpoint="", allowed_ips=(), epoch=epoch)
            west.sync(*west.tunnels(), begun)
            east.sync(*east.tunnels(), tunnel_to(west, west.keys(epoch)))
            killed()
            west.sync(west.tunnels()[0], tunnel_to(east, east.keys(epoch)))
            wait_for(partial(all_send, (west, east), epoch), "what leaves takes the new keys")
            killed()
            load.answered()
            for domain in (west, east):
                domain.sync(domain.tunnels()[-1])
            killed()
            load.answered()
    assert [keys.epoch for domain in (west, east) for keys in domain.border().keys] == [3, 3]
    assert {tunnel.epoch for tunnel in west.tunnels()} == {3}


@pytest.mark.parametrize("domains", [("prepared", 1500)], indirect=True)
def test_what_a_tunnels_devices_do_not_take_is_counted(domains: tuple[Domain, Domain]) -> None:
    west, _ = domains
    first_answer_s(west, "10.2.0.11")
    for device, reason in (
        ("k-u-ie", DropReason.PORT_DOWN),
        ("t-u-ie", DropReason.PORT_DOWN),
        ("wg-u-ie", DropReason.KERNEL_LOST),
    ):
        before = lost(west)
        west.namespace.ip("link", "set", device, "down")
        west.host.run("sh", "-c", "ping -c50 -i0.01 -W1 -q 10.2.0.11 || true")
        wait_for(lambda: (lost(west) - before)[reason] >= 50)  # noqa: B023
        assert (lost(west) - before)[reason] == 50, device
        west.agent.sync(west.agent.describe().host_state)
        first_answer_s(west, "10.2.0.11")


@pytest.mark.parametrize("domains", [("prepared", 1500)], indirect=True)
def test_what_a_tunnel_that_is_too_slow_does_not_take_is_counted(domains: tuple[Domain, Domain]) -> None:
    """WireGuard in user space stands still for a while; the kernel's queue before it is full."""
    west, east = domains
    first_answer_s(west, "10.2.0.11")
    if west.agent.describe().wireguard == "kernel":
        return  # it takes what comes; its own queue counts as `tx_dropped`, as a device's that is down
    (wireguard,) = (
        pid for pid in west.namespace.processes() if b"wg-u-ie" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    before, arrived = lost(west), echoes(east.host)
    os.kill(wireguard, signal.SIGSTOP)
    west.host.run("sh", "-c", f"ping -f -c{SENT_IN_VAIN} -l64 -W1 -q 10.2.0.11 || true")
    os.kill(wireguard, signal.SIGCONT)
    wait_for(lambda: (lost(west) - before).total() + echoes(east.host) - arrived >= SENT_IN_VAIN)
    assert (lost(west) - before).total() + echoes(east.host) - arrived == SENT_IN_VAIN
    assert (lost(west) - before)[DropReason.KERNEL_LOST] > 100


def echoes(host: Namespace) -> int:
    """Requests that came."""
    names, values = (line.split() for line in host.run("cat", "/proc/net/snmp").splitlines() if line[:5] == "Icmp:")
    return int(values[names.index("InEchos")])


def lost(domain: Domain) -> Counter[DropReason]:
    """At the tunnel's port."""
    losses = domain.agent.ask("ReadLosses", Empty(), LossReport).losses
    return sum((Counter({DropReason(each.reason): each.packets}) for each in losses if each.port == 100), Counter())


def drops(domain: Domain) -> dict[int, tuple[int, int]]:
    controller = Controller(domain.agent, election_id=9)
    try:
        return controller.counter("drop_counter")
    finally:
        controller.close()
