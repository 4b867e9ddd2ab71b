import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from namespaces import Namespace, run, veth
from waiting import wait_for
from wireguards import MakeWireGuard, implementations

from dataplane.errors import NodeRefused
from dataplane.wireguard.device import DeviceConfig, KeyStore, Peer, public_key
from dataplane.wireguard.userspace import GoWireGuard

PRIVATE = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
PUBLIC = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="
"""The key pair of wg(8)'s examples."""


def test_public_key_is_that_of_wg() -> None:
    assert public_key(PRIVATE) == PUBLIC


def test_a_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "keys")
    made = keys.private_key("sg1-t1")
    assert KeyStore(tmp_path / "keys").private_key("sg1-t1") == made
    assert keys.private_key("sg1-internet") != made
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "keys" / "sg1-t1.key").stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path / "keys")) == ["sg1-internet.key", "sg1-t1.key"]


def test_a_broken_key_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "sg1-t1.key").write_text("short\n")
    with pytest.raises(NodeRefused, match=r"sg1-t1\.key is not a WireGuard private key"):
        KeyStore(tmp_path).private_key("sg1-t1")
    assert (tmp_path / "sg1-t1.key").read_text() == "short\n"


def test_a_private_key_is_not_printed() -> None:
    assert PRIVATE not in repr(DeviceConfig(private_key=PRIVATE, listen_port=1, peers=()))


def test_without_wireguard_a_node_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    wireguard = GoWireGuard(tmp_path / "sockets", tmp_path / "logs")
    assert wireguard.software == "none"
    with pytest.raises(NodeRefused, match="wireguard-go is not installed"):
        wireguard.begin("wg-u")


class Node:
    """A namespace with an underlay interface `u` and an implementation of WireGuard."""

    def __init__(self, name: str, make: MakeWireGuard, directory: Path) -> None:
        self.namespace = Namespace(name)
        self.directory = directory / name
        self.make = make
        self.wireguard = make(self.directory)
        self.key = KeyStore(self.directory / "keys").private_key("u")

    def configure(self, far: "Node", endpoint: str, keepalive_s: int = 25) -> None:
        peer = Peer(
            public_key=public_key(far.key),
            endpoint=endpoint,
            allowed_ips=("5f00:1::/32", "5f00:2::/32"),
            persistent_keepalive_s=keepalive_s,
        )
        with self.namespace.entered():
            self.wireguard.configure("wg-u", DeviceConfig(private_key=self.key, listen_port=51820, peers=(peer,)))


@pytest.fixture(params=implementations())
def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    a, b = (Node(name, request.param, tmp_path) for name in ("a", "b"))
    veth(a.namespace, "u", b.namespace, "u")
    try:
        for node, address in ((a, "192.0.2.1"), (b, "192.0.2.2")):
            node.namespace.ip("addr", "add", f"{address}/30", "dev", "u")
            with node.namespace.entered():
                node.wireguard.create("wg-u")
        yield a, b
    finally:
        for node in (a, b):
            with node.namespace.entered():
                node.wireguard.remove("wg-u")
            node.namespace.remove()


@pytest.mark.root
def test_two_devices_of_one_name_shake_hands_and_carry_traffic(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    a.configure(b, "192.0.2.2:51820")
    b.configure(a, "192.0.2.1:51820")
    for node, address in ((a, "5f00:1::1/16"), (b, "5f00:2::1/16")):
        node.namespace.ip("addr", "add", address, "dev", "wg-u")
        node.namespace.ip("link", "set", "wg-u", "up")
    a.namespace.run("ping", "-c3", "-i0.1", "-W10", "5f00:2::1")
    with a.namespace.entered():
        state = a.wireguard.read("wg-u")
    assert state is not None
    assert state.public_key == public_key(a.key)
    assert state.listen_port == 51820
    assert [peer.endpoint for peer in state.peers] == ["192.0.2.2:51820"]
    assert abs(state.traffic[0].latest_handshake_s - time.time()) < 60
    assert state.traffic[0].received_bytes >= 3 * 104
    assert state.traffic[0].sent_bytes >= 3 * 104


@pytest.mark.root
def test_what_is_configured_reads_back_equal_and_a_change_replaces_it(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    for far, endpoint, keepalive_s in ((b, "192.0.2.2:51820", 25), (b, "[2001:db8::2]:4500", 7), (a, "192.0.2.9:1", 0)):
        a.configure(far, endpoint, keepalive_s)
        with a.namespace.entered():
            state = a.wireguard.read("wg-u")
        expected = Peer(
            public_key=public_key(far.key),
            endpoint=endpoint,
            allowed_ips=("5f00:1::/32", "5f00:2::/32"),
            persistent_keepalive_s=keepalive_s,
        )
        # wireguard-go refuses a peer that is the device itself, so the last has none
        assert state is not None
        assert state.peers == ((expected,) if far is b else ())


@pytest.mark.root
@pytest.mark.parametrize(
    ("endpoint", "prefixes"),
    [
        pytest.param("192.0.2.2:51820", 1000, id="more than fits into one netlink message"),
        pytest.param("", 1, id="no endpoint"),
    ],
)
def test_an_unusual_peer_reads_back_equal(nodes: tuple[Node, Node], endpoint: str, prefixes: int) -> None:
    a, b = nodes
    peer = Peer(
        public_key=public_key(b.key),
        endpoint=endpoint,
        allowed_ips=tuple(sorted(f"5f00:{number:x}::/32" for number in range(1, prefixes + 1))),
        persistent_keepalive_s=25,
    )
    config = DeviceConfig(private_key=a.key, listen_port=51820, peers=(peer,))
    with a.namespace.entered():
        a.wireguard.configure("wg-u", config)
        state = a.wireguard.read("wg-u")
        assert state is not None
        assert state.peers == (peer,)
        assert len(state.traffic) == 1
        assert state.matches(config)
        assert a.wireguard.start_handshakes("wg-u")
        assert a.wireguard.read("wg-u") == state


@pytest.mark.root
def test_a_change_keeps_the_session(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    for node, far, address in ((a, b, "192.0.2.2"), (b, a, "192.0.2.1")):
        node.configure(far, f"{address}:51820", keepalive_s=0)
    for node, address in ((a, "5f00:1::1/16"), (b, "5f00:2::1/16")):
        node.namespace.ip("addr", "add", address, "dev", "wg-u")
        node.namespace.ip("link", "set", "wg-u", "up")
    a.namespace.run("ping", "-c1", "-W10", "5f00:2::1")
    with a.namespace.entered():
        before = a.wireguard.read("wg-u")
        assert not a.wireguard.start_handshakes("wg-u")
    a.configure(b, "192.0.2.2:51820", keepalive_s=25)
    with a.namespace.entered():
        after = a.wireguard.read("wg-u")
    assert before is not None and after is not None
    assert after.peers[0].persistent_keepalive_s == 25
    assert after.traffic[0].latest_handshake_s == before.traffic[0].latest_handshake_s > 0
    assert after.traffic[0].received_bytes >= before.traffic[0].received_bytes > 0


@pytest.mark.root
def test_a_device_is_found_again_and_removed_by_another_process_image(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    a.configure(b, "192.0.2.2:51820")
    later = a.make(a.directory)
    with a.namespace.entered():
        before = a.wireguard.read("wg-u")
        assert later.read("wg-u") == before
        later.remove("wg-u")
        assert later.read("wg-u") is None
        later.remove("wg-u")
    assert "wg-u" not in a.namespace.ip("link")
    assert [path for path in a.directory.rglob("*") if path.is_socket()] == []
    with b.namespace.entered():
        assert b.wireguard.read("wg-u") is not None


@pytest.mark.root
def test_configuring_what_is_not_there_says_so(nodes: tuple[Node, Node]) -> None:
    a, _ = nodes
    with a.namespace.entered(), pytest.raises(NodeRefused, match="wg-none"):
        a.wireguard.configure("wg-none", DeviceConfig(private_key=a.key, listen_port=1, peers=()))


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[tuple[Namespace, GoWireGuard]]:
    namespace = Namespace("alone")
    wireguard = GoWireGuard(tmp_path / "run", tmp_path / "logs")
    try:
        yield namespace, wireguard
    finally:
        with namespace.entered():
            wireguard.remove("wg-x")
        namespace.remove()


@pytest.mark.root
def test_the_process_shares_nothing_with_the_agent(alone: tuple[Namespace, GoWireGuard], tmp_path: Path) -> None:
    namespace, wireguard = alone
    with namespace.entered(), (tmp_path / "held").open("w") as inherited, socket.socket() as listening:
        os.set_inheritable(inherited.fileno(), True)
        os.set_inheritable(listening.fileno(), True)
        wireguard.create("wg-x")
        wireguard.configure("wg-x", DeviceConfig(private_key=PRIVATE, listen_port=1, peers=()))
        pid = wireguard.process("wg-x")
        assert pid is not None
        ours = {os.readlink(f"/proc/self/fd/{fd.fileno()}") for fd in (inherited, listening)}
    open_files = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()}
    assert not open_files & ours
    assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)} == {
        "/dev/null",
        str(tmp_path / "logs" / "wg-x.log"),
    }
    assert os.getsid(pid) != os.getsid(0)
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"GOMAXPROCS=1" in environment
    assert PRIVATE.encode() not in environment + Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.root
def test_a_killed_process_is_seen_and_replaced(alone: tuple[Namespace, GoWireGuard]) -> None:
    namespace, wireguard = alone
    with namespace.entered():
        wireguard.create("wg-x")
        pid = wireguard.process("wg-x")
        assert pid is not None
        os.kill(pid, 9)
        wait_for(lambda: wireguard.read("wg-x") is None, "it is gone")
        assert wireguard.read("wg-x") is None
        wireguard.remove("wg-x")
        wireguard.create("wg-x")
        assert wireguard.process("wg-x") not in (None, pid)


@pytest.mark.root
def test_a_process_that_is_about_to_end_is_not_taken_for_one_that_begins(
    alone: tuple[Namespace, GoWireGuard], tmp_path: Path
) -> None:
    """One whose interface was removed closes its socket a moment before it is gone."""
    namespace, wireguard = alone
    with namespace.entered():
        wireguard.create("wg-x")
        ending = wireguard.process("wg-x")
        next(tmp_path.rglob("wg-x.sock")).unlink()
        wireguard.begin("wg-x")
        wireguard.create("wg-x")
        assert wireguard.process("wg-x") not in (None, ending)


@pytest.mark.root
def test_a_device_name_that_is_taken_is_refused_with_the_reason(alone: tuple[Namespace, GoWireGuard]) -> None:
    namespace, wireguard = alone
    namespace.ip("link", "add", "wg-x", "type", "veth", "peer", "name", "peer")
    with namespace.entered(), pytest.raises(NodeRefused, match="did not start for wg-x"):
        wireguard.create("wg-x")
    assert "wg-x" in namespace.ip("link")
    assert run("ip", "netns", "pids", namespace.name).split() == []
