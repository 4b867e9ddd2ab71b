"""What a neighbour may say of its end of a tunnel, and that it cannot lead our packets to another link."""

import base64
import ipaddress
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from namespaces import Namespace, veth
from waiting import wait_for
from wireguards import MakeWireGuard, implementations

from dataplane.host_api import BorderConfig, Tunnel
from dataplane.wireguard.device import DeviceConfig, Peer, public_key
from dataplane.wireguard.tunnel_peer import key_objection, place_objection, reachable
from dataplane.wireguard.tunnels import Tunnels

PRIME = 2**255 - 19
OF_LOW_ORDER = [0, 1, PRIME - 1, PRIME, PRIME + 1]
OF_LOW_ORDER += [325606250916557431795983626356110631294008115727848805560023387167927233504]
OF_LOW_ORDER += [39382357235489614581723060781553021112529911719440698176882885853963445705823]
LISTEN, THEIR_PRIVATE = 51100, base64.b64encode(bytes(range(32))).decode()


def is_useless(key: bytes) -> bool:
    """Whether the secret is the same for everybody, as the implementation of X25519 that we use sees it."""
    try:
        X25519PrivateKey.from_private_bytes(bytes(range(32))).exchange(X25519PublicKey.from_public_bytes(key))
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("number", OF_LOW_ORDER)
@pytest.mark.parametrize("highest", [0, 1])
def test_keys_of_low_order_are_refused_in_every_form(number: int, highest: int) -> None:
    key = (number | highest << 255).to_bytes(32, "little")
    assert is_useless(key)
    assert key_objection(key)


def test_any_other_key_is_taken_in_one_form() -> None:
    dice = random.Random(3)
    for _ in range(100):
        key = X25519PrivateKey.from_private_bytes(dice.randbytes(32)).public_key().public_bytes_raw()
        assert not is_useless(key) and key_objection(key) == ""
        assert "canonical" in key_objection(key[:31] + bytes((key[31] | 0x80,)))


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("192.0.2.2", ""),
        ("192.0.2.1", "our own"),
        ("192.0.2.0", "of no neighbour"),
        ("192.0.2.3", "of no neighbour"),
        ("192.0.2.5", "not on the border's link (192.0.2.0/30, 198.51.100.0/31, 2001:db8:9::/64)"),
        ("198.51.100.0", ""),
        ("198.51.100.1", ""),
        ("2001:db8:9::", ""),
        ("2001:db8:9::7", "our own"),
        ("2001:db8:8::7", "not on the border's link"),
        ("127.0.0.1", "of no neighbour"),
        ("0.0.0.0", "of no neighbour"),
        ("224.0.0.5", "of no neighbour"),
        ("255.255.255.255", "of no neighbour"),
        ("169.254.0.1", "of no neighbour"),
        ("::", "of no neighbour"),
        ("::1", "of no neighbour"),
        ("ff02::1", "of no neighbour"),
        ("fe80::1", "of no neighbour"),
    ],
)
def test_the_other_end_is_where_the_border_leads(address: str, reason: str) -> None:
    listed = [ipaddress.ip_network(text) for text in ("198.51.100.0/31", "2001:db8:9::/64")]
    ours = [ipaddress.ip_address(text) for text in ("192.0.2.1", "2001:db8:9::7")]
    objection = place_objection(
        ipaddress.ip_address(address), reachable(ipaddress.ip_interface("192.0.2.1/30"), listed), ours
    )
    assert reason in objection and bool(reason) == bool(objection)


class Wire:
    """What crosses a link, at one of its ends: (source, destination) of each UDP packet and echo."""

    def __init__(self, namespace: Namespace, interface: str) -> None:
        with namespace.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
            self._socket.bind((interface, 0x0003))
        self._socket.setblocking(False)
        self.seen: list[tuple[str, str, int]] = []

    def read(self) -> list[tuple[str, str, int]]:
        while True:
            try:
                frame = self._socket.recv(2048)
            except BlockingIOError:
                return self.seen
            if frame[12:14] == b"\x08\x00":
                self.seen.append((socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34]), frame[23]))

    def count(self, source: str, destination: str, protocol: int = 17) -> int:
        return self.read().count((source, destination, protocol))

    def close(self) -> None:
        self._socket.close()


@contextmanager
def wires(*ends: tuple[Namespace, str]) -> Iterator[list[Wire]]:
    made = [Wire(*end) for end in ends]
    try:
        yield made
    finally:
        for wire in made:
            wire.close()


@pytest.mark.root
@pytest.mark.parametrize("make", implementations())
def test_a_neighbour_cannot_lead_our_packets_to_another_link(make: MakeWireGuard, tmp_path: Path) -> None:
    """It has the keys, so what it sends from anywhere is authentic: WireGuard alone would follow it."""
    us, they = Namespace("us"), Namespace("they")
    veth(us, "private", they, "private")
    veth(us, "public", they, "public")
    for namespace, host in ((us, 1), (they, 2)):
        namespace.ip("addr", "add", f"203.0.113.{host}/24", "dev", "public")
    they.ip("addr", "add", "192.0.2.2/30", "dev", "private")
    border = BorderConfig(name="b", port=100, interface="private", address="192.0.2.1/30", listen_port=LISTEN, mtu=1420)
    with us.entered():
        tunnels = Tunnels("us", (border,), make(tmp_path / "us"), tmp_path / "us")
        ours = tunnels.status(tunnels.read())[0].public_key
    theirs = make(tmp_path / "they")

    def speak_to(endpoint: str) -> None:
        """From the beginning: its first message is one that we would answer to where it came from."""
        theirs.remove("wg-they")
        theirs.create("wg-they")
        they.ip("link", "set", "wg-they", "up")
        peer = Peer(public_key=ours, endpoint=endpoint, allowed_ips=("5f00:1::/32",), persistent_keepalive_s=1)
        theirs.configure("wg-they", DeviceConfig(private_key=THEIR_PRIVATE, listen_port=LISTEN, peers=(peer,)))

    def known() -> tuple[str, float]:
        with us.entered():
            (tunnel,), (status,) = tunnels.actual(tunnels.read()), tunnels.status(tunnels.read())
        return tunnel.peer_endpoint, status.latest_handshake_s

    def begin() -> bool:
        theirs.start_handshakes("wg-they")
        return False

    def said(to_us: tuple[Wire, ...], address: str) -> int:
        return sum(seen[1:] == (address, 17) for wire in to_us for seen in wire.read())

    def fence(wire: Wire) -> None:
        """What we have sent until now was seen, and nothing of it went there."""
        echoes = wire.count("203.0.113.1", "203.0.113.2", 1)
        us.run("ping", "-c1", "-W10", "203.0.113.2")
        wait_for(lambda: wire.count("203.0.113.1", "203.0.113.2", 1) > echoes, "the echo request was seen")
        assert not {seen for seen in wire.seen if seen[2] == 17 and seen[1] == "203.0.113.2"}

    try:
        wanted = Tunnel(
            border="b",
            peer_public_key=public_key(THEIR_PRIVATE),
            peer_endpoint=f"192.0.2.2:{LISTEN}",
            allowed_ips=("5f00:2::/32",),
            persistent_keepalive_s=1,
        )
        with us.entered():
            assert tunnels.sync((wanted,))[1] == ()
        with they.entered():
            speak_to(f"192.0.2.1:{LISTEN}")
        wait_for(lambda: known()[1] > 0, "they shook hands by the private link")
        with wires((they, "public"), (they, "private")) as (public, private):
            # To our address on the public link: from there, though it is them.
            with they.entered():
                speak_to(f"203.0.113.1:{LISTEN}")
                wait_for(lambda: said((public, private), "203.0.113.1") > 2 or begin(), "their messages")
            fence(public)
            # By the private link, from an address that the public one leads to.
            they.ip("route", "add", "192.0.2.1/32", "dev", "private", "src", "203.0.113.2")
            with they.entered():
                speak_to(f"192.0.2.1:{LISTEN}")
                wait_for(lambda: said((public, private), "192.0.2.1") > 2 or begin(), "their messages")
            fence(public)
        assert known()[0] == f"192.0.2.2:{LISTEN}"
        # And back where it belongs it works again.
        they.ip("route", "del", "192.0.2.1/32")
        before = known()[1]
        with they.entered():
            speak_to(f"192.0.2.1:{LISTEN}")
        wait_for(lambda: known()[1] > before, "they shook hands again")
    finally:
        with us.entered():
            tunnels.remove_all()
        with they.entered():
            theirs.remove("wg-they")
        us.remove()
        they.remove()
