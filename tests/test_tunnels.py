import itertools
import os
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from namespaces import Namespace, veth
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from waiting import LIMIT_S, wait_for
from wireguards import MakeWireGuard, go, implementations

from dataplane.host.interface import read_interface
from dataplane.host.netlink import removing
from dataplane.host_api import BorderConfig, PartRefused, Tunnel
from dataplane.wireguard.device import DeviceConfig, KeyStore
from dataplane.wireguard.tunnel_link import TunnelLink, remove_pair_and_rules
from dataplane.wireguard.tunnels import Tunnels

PUBLIC = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="
FAR = "aDp1qigymSniyTGZtrgWr+uUAlqMOK7Qr+JpYK60F3I="
OTHER = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="


def border(name: str, port: int, interface: str, address: str) -> BorderConfig:
    return BorderConfig(name=name, port=port, interface=interface, address=address, listen_port=51000 + port, mtu=1420)


T1 = border("sg1-t1", 100, "t1", "192.0.2.1/30")
INTERNET = border("sg1-ig1", 101, "internet", "2001:db8:ff::1/64")


def tunnel(of: BorderConfig, key: str = "", endpoint: str = "") -> Tunnel:
    place, public = ("[2001:db8:ff::2]:51001", FAR) if of is INTERNET else ("192.0.2.2:51000", PUBLIC)
    return Tunnel(
        border=of.name,
        peer_public_key=key or public,
        peer_endpoint=endpoint or place,
        allowed_ips=("5f00:2::/32",),
    )


class Gateway:
    def __init__(self, directory: Path, make: MakeWireGuard) -> None:
        self.directory = directory
        self.make = make
        self.namespace = Namespace("sg1")
        self.namespace.ip("link", "add", "t1", "type", "veth", "peer", "name", "far-t1")
        self.namespace.ip("link", "add", "internet", "type", "veth", "peer", "name", "far-internet")
        self.tunnels = self.restarted()

    def restarted(self) -> Tunnels:
        return Tunnels("sg1", (T1, INTERNET), self.make(self.directory), self.directory)

    def lose_peers(self, device: str, of: BorderConfig) -> None:
        key = KeyStore(self.directory / "keys").private_key(of.name)
        with self.namespace.entered():
            without = DeviceConfig(private_key=key, listen_port=of.listen_port, peers=())
            self.make(self.directory).configure(device, without)

    def sync(self, *desired: Tunnel) -> tuple[str, ...]:
        changes, refused = self.attempt(*desired)
        assert not refused, refused
        return changes

    def attempt(self, *desired: Tunnel) -> tuple[tuple[str, ...], tuple[PartRefused, ...]]:
        with self.namespace.entered():
            return self.tunnels.sync(desired)

    def await_processes(self, number: int) -> None:
        """wireguard-go ends by itself a moment after its interface went away."""
        wait_for(lambda: len(self.namespace.processes()) == number, f"{number} processes are left")

    def picture(self) -> dict[str, object]:
        """What the node has, as other tools than ours see it."""
        ip = self.namespace.ip
        return {
            "links": sorted(
                (words[1].rstrip(":").partition("@")[0], words[words.index("mtu") + 1], "UP" in words[2])
                for words in (line.split() for line in ip("-o", "link").splitlines())
            ),
            "rules": sorted(ip("-6", "rule").splitlines()),
            "routes": sorted(
                line
                for line in ip("-6", "route", "show", "table", "all").splitlines()
                if any(name in line for name in ("wg-", "k-", "t-"))
            ),
            "neighbours": sorted(ip("-6", "neigh", "show", "nud", "permanent").splitlines()),
            "nft": self.namespace.run("nft", "list", "ruleset"),
            "forwarding": self.namespace.run("cat", "/proc/sys/net/ipv6/conf/all/forwarding"),
            "sockets": sorted(path.name for path in self.directory.rglob("*.sock")),
            "processes": sorted(
                Path(f"/proc/{pid}/cmdline").read_bytes() for pid in self.namespace.processes() if pid != os.getpid()
            ),
        }


@pytest.fixture(params=implementations())
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path, request.param)
    try:
        yield made
    finally:
        made.sync()
        made.namespace.remove()


@pytest.mark.root
def test_a_tunnel_is_made_of_exactly_these_parts(gateway: Gateway) -> None:
    assert gateway.sync(tunnel(T1)) == (
        "set what the kernel may forward",
        "turned IPv6 forwarding on (nftables table `netstitch` drops all but tunnels)",
        "created tunnel sg1-t1 to 192.0.2.2:51000",
    )
    link = TunnelLink("sg1", T1)
    picture = gateway.picture()
    assert {("wg-t1", "1420", True), ("k-t1", "1420", True), ("t-t1", "1420", True)} <= set(picture["links"])  # type: ignore[call-overload]
    assert [line.split(":\t")[1] for line in picture["rules"] if "iif" in line] == [  # type: ignore[attr-defined]
        "from all iif wg-t1 lookup 20200",
        "from all iif k-t1 lookup 20201",
    ]
    assert gateway.namespace.ip("-6", "route", "show", "table", "20200").split()[:5] == [
        "default",
        "via",
        "fe80::1",
        "dev",
        "k-t1",
    ]
    assert gateway.namespace.ip("-6", "route", "show", "table", "20201").split()[:3] == ["default", "dev", "wg-t1"]
    assert [line.split() for line in picture["neighbours"]] == [  # type: ignore[attr-defined]
        ["fe80::1", "dev", "k-t1", "lladdr", link.pipeline_mac, "PERMANENT"]
    ]
    assert link.kernel_mac in gateway.namespace.ip("link", "show", "k-t1")
    features = gateway.namespace.run("ethtool", "-k", "k-t1")
    assert "generic-receive-offload: on" in features
    assert "tx-checksumming: off" in features
    assert picture["forwarding"] == "1\n"
    assert "192.0.2.1/30" in gateway.namespace.ip("addr", "show", "t1")
    for name in (link.wireguards[0], link.kernel, link.pipeline):
        assert "inet6" not in gateway.namespace.ip("addr", "show", name)


@pytest.mark.root
def test_a_second_sync_finds_nothing_to_do_also_after_a_restart(gateway: Gateway) -> None:
    gateway.sync(tunnel(T1), tunnel(INTERNET, endpoint="[2001:db8:ff::2]:51001"))
    picture = gateway.picture()
    assert gateway.sync(tunnel(T1), tunnel(INTERNET, endpoint="[2001:db8:ff::2]:51001")) == ()
    with gateway.namespace.entered():
        gateway.tunnels = gateway.restarted()
        assert gateway.tunnels.actual(gateway.tunnels.read()) == (
            tunnel(INTERNET, endpoint="[2001:db8:ff::2]:51001"),
            tunnel(T1),
        )
        assert gateway.tunnels.ports() == ((100, "t-t1"), (101, "t-internet"))
    assert gateway.sync(tunnel(T1), tunnel(INTERNET, endpoint="[2001:db8:ff::2]:51001")) == ()
    assert gateway.picture() == picture


@pytest.mark.root
def test_removal_leaves_nothing_behind(gateway: Gateway) -> None:
    with gateway.namespace.entered():
        gateway.tunnels.sync(())
    before = gateway.picture()
    gateway.sync(tunnel(T1), tunnel(INTERNET))
    assert gateway.picture() != before
    assert gateway.sync() == (
        "removed tunnel sg1-t1",
        "removed tunnel sg1-ig1",
        "set what the kernel may forward",
        "turned IPv6 forwarding off, as it was",
    )
    assert gateway.picture() == before
    with gateway.namespace.entered():
        gateway.tunnels.remove_all()
    assert gateway.picture() == {**before, "nft": ""}


@pytest.mark.root
def test_a_removal_does_not_fail_where_its_object_is_gone(gateway: Gateway) -> None:
    absent = 9999
    with gateway.namespace.entered(), closing(IPRoute()) as netlink:
        (index,) = netlink.link_lookup(ifname="t1")
        for what in ("link", "addr", "route", "rule"):
            with removing():
                match what:
                    case "link":
                        netlink.link("del", index=absent)
                    case "addr":
                        netlink.addr("del", index=index, address="192.0.2.9", prefixlen=32)
                    case "route":
                        netlink.route("del", family=socket.AF_INET6, dst="2001:db8::/64", table=absent)
                    case "rule":
                        netlink.rule("del", family=socket.AF_INET6, table=absent, priority=absent)
        with pytest.raises(NetlinkError, match="not supported"), removing():
            netlink.link("del", index=1)  # the loopback


@pytest.mark.root
def test_what_is_removed_from_two_sides_at_once_is_removed(gateway: Gateway) -> None:
    """As the kernel removes routes of an interface that goes while they are flushed."""

    def remove() -> tuple[str, ...]:
        with gateway.namespace.entered(), closing(IPRoute()) as netlink:
            return remove_pair_and_rules(netlink, TunnelLink("sg1", T1))

    with ThreadPoolExecutor(2) as sides:
        for _ in range(20):
            gateway.sync(tunnel(T1))
            for done in [sides.submit(remove) for _ in range(2)]:
                done.result()
        gateway.sync()


DAMAGE = {
    "rule": ("ip", "-6", "rule", "del", "iif", "wg-t1", "lookup", "20200"),
    "wrong rule": ("ip", "-6", "rule", "add", "iif", "lo", "lookup", "main", "priority", "10200"),
    "route": ("ip", "-6", "route", "flush", "table", "20201"),
    "wrong route": ("ip", "-6", "route", "replace", "default", "dev", "k-t1", "table", "20201"),
    "neighbour": ("ip", "-6", "neigh", "flush", "dev", "k-t1", "nud", "permanent"),
    "down": ("ip", "link", "set", "k-t1", "down"),
    "wireguard down": ("ip", "link", "set", "wg-t1", "down"),
    "mtu": ("ip", "link", "set", "t-t1", "mtu", "1280"),
    "mac": ("ip", "link", "set", "t-t1", "address", "02:00:00:00:00:01"),
    "pair": ("ip", "link", "del", "t-t1"),
    "wireguard": ("ip", "link", "del", "wg-t1"),
    "gro": ("ethtool", "-K", "k-t1", "gro", "off"),
    "checksums": ("ethtool", "-K", "k-t1", "tx", "on"),
    "nft policy": ("nft", "add chain inet netstitch forward { policy accept; }"),
    "nft set": ("nft", "add element inet netstitch tunnel_pairs { eth0 . eth1 }"),
    "nft table": ("nft", "flush ruleset"),
    "forwarding": ("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding"),
    "peer": (),
}


@pytest.mark.root
def test_every_damage_is_repaired_and_named(gateway: Gateway) -> None:
    gateway.sync(tunnel(T1))
    picture = gateway.picture()
    for what, command in DAMAGE.items():
        if what == "peer":
            gateway.lose_peers("wg-t1", T1)
        else:
            gateway.namespace.run(*command)
        if what == "wireguard":
            gateway.await_processes(0)
        assert gateway.sync(tunnel(T1)), what
        assert gateway.picture() == picture, what
        assert gateway.sync(tunnel(T1)) == (), what


@pytest.mark.root
@pytest.mark.parametrize("later", implementations())
def test_tunnels_of_wireguard_go_are_taken_over(later: MakeWireGuard, tmp_path: Path) -> None:
    """By an agent that starts again, also on a kernel that has learned WireGuard since (its module was loaded)."""
    gateway = Gateway(tmp_path, go)
    try:
        gateway.sync(tunnel(T1), tunnel(INTERNET))
        gateway.make = later
        gateway.tunnels = gateway.restarted()
        replaced = "tunnel sg1-t1: started WireGuard for wg-t1" in gateway.sync(tunnel(T1), tunnel(INTERNET))
        assert replaced == (later is not go)
        assert gateway.sync(tunnel(T1), tunnel(INTERNET)) == ()
        left = 2 if later is go else 0
        gateway.await_processes(left)
        picture = gateway.picture()
        assert [len(picture[what]) for what in ("processes", "sockets")] == [left, left]  # type: ignore[arg-type]
    finally:
        gateway.sync()
        gateway.namespace.remove()


@pytest.mark.root
def test_random_walks_between_states_end_like_a_fresh_node(gateway: Gateway) -> None:
    choices = [
        (),
        (tunnel(T1),),
        (tunnel(T1, OTHER),),
        (tunnel(T1, endpoint="192.0.2.2:9"), tunnel(INTERNET)),
        (tunnel(INTERNET, OTHER),),
    ]
    first: dict[int, dict[str, object]] = {}
    walk = random.Random(7)
    for step, index in itertools.product(range(3), range(len(choices))):
        choice = walk.randrange(len(choices)) if step else index
        gateway.sync(*choices[choice])
        with gateway.namespace.entered():
            assert set(gateway.tunnels.actual(gateway.tunnels.read())) == set(choices[choice])
        picture = gateway.picture()
        assert first.setdefault(choice, picture) == picture


def _shake_hands(ends: list[tuple[Namespace, Tunnels]]) -> None:
    """What the agent does after a sync; alternately, so that first messages do not cross."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        waiting = []
        for node, tunnels in ends:
            with node.entered():
                waiting.append(tunnels.start_handshakes())
            time.sleep(0.2)
        if not any(waiting):
            return
        assert time.monotonic() < deadline, "no handshake"


@pytest.mark.root
@pytest.mark.parametrize(
    ("desired", "complaint"),
    [
        ([tunnel(border("sg1-x", 9, "x", "192.0.2.9/30"))], "no such border, only"),
        ([tunnel(T1), tunnel(T1)], "named twice"),
        ([tunnel(T1, key="short")], "peer_public_key"),
        ([tunnel(T1, endpoint="example.net:1")], "is not address:port"),
        ([tunnel(T1, endpoint="192.0.2.2:70000")], "is no port"),
        (
            [Tunnel(border="sg1-t1", peer_public_key=PUBLIC, peer_endpoint="192.0.2.2:1", allowed_ips=("5f00::1/16",))],
            "host",
        ),
    ],
)
def test_an_impossible_tunnel_is_refused_and_nothing_is_touched(
    gateway: Gateway, desired: list[Tunnel], complaint: str
) -> None:
    gateway.sync(tunnel(T1))
    picture = gateway.picture()
    changes, refused = gateway.attempt(*desired)
    assert complaint in refused[0].reason
    assert not changes or desired[0].border not in str(changes)
    if desired[0].border == T1.name:
        assert gateway.picture() == picture


@pytest.mark.root
def test_an_interface_whose_driver_has_no_ethtool_is_read_all_the_same() -> None:
    """WireGuard's of the kernel is one, ifb another."""
    namespace = Namespace("ifb")
    try:
        namespace.ip("link", "add", "plain", "type", "ifb")
        with namespace.entered():
            down = read_interface("plain")
            namespace.ip("link", "set", "plain", "mtu", "1420", "up")
            up = read_interface("plain")
            assert down is not None and up is not None
            assert (down.up, down.carrier) == (False, False)
            assert (up.index, up.mac, up.mtu, up.up, up.carrier) == (down.index, down.mac, 1420, True, True)
    finally:
        namespace.remove()


@pytest.mark.root
def test_a_missing_underlay_is_named(gateway: Gateway) -> None:
    gateway.namespace.ip("link", "del", "t1")
    _, refused = gateway.attempt(tunnel(T1))
    assert [refusal.part for refusal in refused] == ["tunnels/sg1-t1"]
    assert "border sg1-t1: there is no interface t1" in refused[0].reason


@pytest.mark.root
@pytest.mark.parametrize("make", implementations())
def test_what_comes_out_of_a_tunnel_reaches_its_port_and_nothing_else(make: MakeWireGuard, tmp_path: Path) -> None:
    """Two gateways; here `t-` is opened to the kernel of another namespace in place of XDP, to see the frames."""
    sg1, t1, seen = (Namespace(name) for name in ("sg1", "t1", "seen"))
    veth(sg1, "t1", t1, "sg1")
    ours = border("sg1-t1", 100, "t1", "192.0.2.1/30")
    theirs = border("sg1-t1", 100, "sg1", "192.0.2.2/30")
    ends = []
    for node, name, config in ((sg1, "sg1", ours), (t1, "t1", theirs)):
        directory = tmp_path / name
        with node.entered():
            ends.append((node, Tunnels(name, (config,), make(directory), directory)))
    try:
        (_, a), (_, b) = ends
        for (node, tunnels), far, prefix in zip(ends, (b, a), ("5f00:2::/32", "5f00:1::/32"), strict=True):
            (status,) = far.status(far.read())
            wanted = Tunnel(
                border="sg1-t1", peer_public_key=status.public_key, peer_endpoint=status.endpoint, allowed_ips=(prefix,)
            )
            with node.entered():
                tunnels.sync((wanted,))
        # Far end: the pipeline's side of the pair, where XDP would be, goes to `seen`, which has the address 5f00:2::1.
        t1.ip("link", "set", "t-sg1", "netns", seen.name)
        mac = TunnelLink("t1", theirs).kernel_mac
        seen.ip("link", "set", "t-sg1", "up")
        seen.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/t-sg1/disable_ipv6")
        seen.ip("addr", "add", "5f00:2::1/128", "dev", "t-sg1", "nodad")
        seen.ip("-6", "neigh", "add", "fe80::2", "lladdr", mac, "dev", "t-sg1")
        seen.ip("-6", "route", "add", "5f00:1::/32", "via", "fe80::2", "dev", "t-sg1")
        # Near end: the same, with 5f00:1::1, in the other direction.
        near = Namespace("near")
        sg1.ip("link", "set", "t-t1", "netns", near.name)
        near.ip("link", "set", "t-t1", "up")
        near.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/t-t1/disable_ipv6")
        near.ip("addr", "add", "5f00:1::1/128", "dev", "t-t1", "nodad")
        near.ip("-6", "neigh", "add", "fe80::2", "lladdr", TunnelLink("sg1", ours).kernel_mac, "dev", "t-t1")
        near.ip("-6", "route", "add", "5f00:2::/32", "via", "fe80::2", "dev", "t-t1")
        try:
            _shake_hands(ends)
            near.run("ping", "-c3", "-i0.1", "-W10", "5f00:2::1")
            # A local address of the far gateway is no way in.
            t1.ip("addr", "add", "5f00:2::99/128", "dev", "lo")
            t1.ip("-6", "route", "add", "5f00:1::/32", "dev", "wg-sg1")
            with pytest.raises(AssertionError, match="100% packet loss"):
                near.run("ping", "-c2", "-i0.1", "-W1", "5f00:2::99")
        finally:
            near.remove()
    finally:
        seen.remove()
        for node, tunnels in ends:
            with node.entered():
                tunnels.remove_all()
            node.remove()
