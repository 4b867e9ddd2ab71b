"""Keys of a border are renewed on a second device, with an ML-KEM-768 exchange."""

import hashlib
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from namespaces import Namespace, veth
from waiting import wait_for
from wireguards import MakeWireGuard, go, implementations

from dataplane.errors import NodeRefused, RequestInvalid
from dataplane.host_api import BorderConfig, BorderStatus, Tunnel, TunnelKeys
from dataplane.wireguard.renewed_keys import RenewedKeyStore
from dataplane.wireguard.tunnel_link import TunnelLink
from dataplane.wireguard.tunnels import Tunnels


def store(directory: Path) -> RenewedKeyStore:
    return RenewedKeyStore(directory, ("b",))


def test_the_ml_kem_that_is_installed_is_that_of_the_standard() -> None:
    """Test 1 of Wycheproof's mlkem_768_keygen_seed_test.json (FIPS 203); all of its others pass too, of decapsulation
    and of keys that are none."""
    seed = (
        "7c9935a0b07694aa0c6d10e4db6b1add2fd81a25ccb148032dcd739936737f2d8626ed79d451140800e03b59b956f8210e55606740"
        + ("7d13dc90fa9e8b872bfb8f")
    )
    key = MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(seed)).public_key().public_bytes_raw()
    assert hashlib.sha256(key).hexdigest() == "86adbca81f4fee893e2fb58fb98aa2fe188f501fed268d7f4056f8c05c4e53c4"


def test_both_ends_come_to_the_same_pre_shared_key(tmp_path: Path) -> None:
    ours, theirs = store(tmp_path / "ours"), store(tmp_path / "theirs")
    begun = ours.begun("b", 1)
    answer = theirs.answered("b", 1, begun.kem_key)
    done = ours.completed("b", 1, answer.kem_ciphertext)
    assert done.preshared_key == answer.preshared_key
    assert done.preshared_key
    assert {done.public_key, answer.public_key} == {begun.public_key, answer.public_key}
    assert done.public_key != answer.public_key
    other = store(tmp_path / "other").answered("b", 1, begun.kem_key)
    assert other.preshared_key != answer.preshared_key


def test_what_was_said_is_said_again_after_a_restart(tmp_path: Path) -> None:
    begun = store(tmp_path / "ours").begun("b", 1)
    assert store(tmp_path / "ours").begun("b", 1) == begun
    answer = store(tmp_path / "theirs").answered("b", 1, begun.kem_key)
    assert store(tmp_path / "theirs").answered("b", 1, begun.kem_key) == answer
    done = store(tmp_path / "ours").completed("b", 1, answer.kem_ciphertext)
    assert store(tmp_path / "ours").completed("b", 1, answer.kem_ciphertext) == done


def test_another_answer_to_what_is_complete_is_refused(tmp_path: Path) -> None:
    ours = store(tmp_path / "ours")
    begun = ours.begun("b", 1)
    ours.completed("b", 1, store(tmp_path / "theirs").answered("b", 1, begun.kem_key).kem_ciphertext)
    with pytest.raises(RequestInvalid, match="complete with another answer"):
        ours.completed("b", 1, store(tmp_path / "others").answered("b", 1, begun.kem_key).kem_ciphertext)


@pytest.mark.parametrize("key", [b"", b"\x00" * 1183, b"\xff" * 1184], ids=["none", "short", "not reduced"])
def test_a_kem_key_that_is_none_is_refused(tmp_path: Path, key: bytes) -> None:
    """FIPS 203 §7.2: the type check and the modulus check."""
    with pytest.raises(RequestInvalid, match="the neighbour's ML-KEM key is none"):
        store(tmp_path).answered("b", 1, key)


def test_keys_that_nobody_has_are_not_made_up(tmp_path: Path) -> None:
    with pytest.raises(RequestInvalid, match="no keys of epoch 3"):
        store(tmp_path).completed("b", 3, bytes(1088))


def test_the_seed_is_gone_once_the_exchange_is_complete_and_old_keys_once_they_are_not_wanted(tmp_path: Path) -> None:
    ours, theirs = store(tmp_path / "ours"), store(tmp_path / "theirs")
    begun = ours.begun("b", 1)
    answer = theirs.answered("b", 1, begun.kem_key)
    assert begun.kem_seed
    assert not ours.completed("b", 1, answer.kem_ciphertext).kem_seed
    ours.begun("b", 2)
    files = sorted((tmp_path / "ours").iterdir())
    assert [path.name for path in files] == ["b.0.json", "b.1.json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    ours.keep("b", {2})
    assert [path.name for path in (tmp_path / "ours").iterdir()] == ["b.0.json"]
    assert store(tmp_path / "ours").of_slot("b", 1) is None


def test_a_broken_file_of_keys_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.1.json").write_text("{}")
    with pytest.raises(NodeRefused, match=r"b\.1\.json is no file of renewed keys"):
        store(tmp_path)


def test_renewed_keys_are_not_printed(tmp_path: Path) -> None:
    keys = store(tmp_path).begun("b", 1)
    assert keys.private_key not in repr(keys)
    assert repr(keys.kem_seed) not in repr(keys)


LISTEN = 51820
INITIATION_BYTES = 148
"""WireGuard's first message."""
ENDS = (("a", "192.0.2.1/30", "5f00:1::"), ("b", "192.0.2.2/30", "5f00:2::"))


class Gateway:
    """A namespace with a border."""

    def __init__(self, name: str, address: str, domain: str, make: MakeWireGuard, directory: Path) -> None:
        self.node = Namespace(name)
        self.border = BorderConfig(
            name="border",
            port=100,
            interface="u",
            address=address,
            listen_port=LISTEN,
            second_listen_port=LISTEN + 1,
            mtu=1420,
        )
        self.domain, self._make, self.directory = domain, make, directory
        self.link = TunnelLink(name, self.border)
        self.tunnels = self.restarted()
        self.desired: tuple[Tunnel, ...] = ()

    def restarted(self) -> Tunnels:
        with self.node.entered():
            return Tunnels(self.link.node, (self.border,), self._make(self.directory), self.directory)

    def sync(self, *desired: Tunnel) -> tuple[str, ...]:
        self.desired = desired
        with self.node.entered():
            changes, refused = self.tunnels.sync(desired)
        assert not refused, refused
        return changes

    def status(self) -> BorderStatus:
        with self.node.entered():
            return self.tunnels.status(self.tunnels.read())[0]

    def keys(self, epoch: int) -> TunnelKeys:
        return next(keys for keys in self.status().keys if keys.epoch == epoch)

    def look(self) -> bool:
        """What the agent does after a sync; returns whether it waits for a handshake."""
        with self.node.entered():
            return self.tunnels.take_newest()

    def remove(self) -> None:
        with self.node.entered():
            self.tunnels.remove_all()
        self.node.remove()


def tunnel(to: BorderStatus, domain: str) -> Tunnel:
    return Tunnel(
        border="border", peer_public_key=to.public_key, peer_endpoint=to.endpoint, allowed_ips=(f"{domain}/32",)
    )


def renewed(keys: TunnelKeys, domain: str) -> Tunnel:
    return Tunnel(
        border="border",
        peer_public_key=keys.public_key,
        peer_endpoint=keys.endpoint,
        allowed_ips=(f"{domain}/32",),
        epoch=keys.epoch,
        kem_key=keys.kem_key,
        kem_ciphertext=keys.kem_ciphertext,
        persistent_keepalive_s=25 if keys.kem_ciphertext else 0,  # who has begun begins
    )


def begun(epoch: int) -> Tunnel:
    return Tunnel(border="border", peer_public_key="", peer_endpoint="", allowed_ips=(), epoch=epoch)


@pytest.fixture(params=implementations())
def gateways(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Gateway, Gateway]]:
    a, b = (Gateway(*end, request.param, tmp_path / end[0]) for end in ENDS)
    veth(a.node, "u", b.node, "u")
    try:
        a.sync(tunnel(b.status(), b.domain))
        b.sync(tunnel(a.status(), a.domain))
        yield a, b
    finally:
        a.remove()
        b.remove()


def shake(*ends: Gateway, attempts_s: float = 0.3) -> None:
    """Alternately, so that first messages do not cross."""

    def done() -> bool:
        waiting = []
        for end in ends:
            with end.node.entered():
                waiting.append(end.tunnels.start_handshakes())
            time.sleep(attempts_s)
        return not any(waiting)

    wait_for(done, "all have shaken hands")


def exchange(a: Gateway, b: Gateway, epoch: int) -> None:
    """What their controllers do, up to where both devices have their peers."""
    a.sync(*a.desired, begun(epoch))
    b.sync(*b.desired, renewed(a.keys(epoch), a.domain))
    a.sync(*(each for each in a.desired if each.epoch != epoch), renewed(b.keys(epoch), b.domain))


def finish(a: Gateway, b: Gateway, epoch: int) -> None:
    wait_for(lambda: not (a.look() | b.look()), "both have shaken hands with the new keys")
    for end in (a, b):
        assert (end.keys(epoch).shaken, end.keys(epoch).sends) == (True, True)
    for end in (a, b):
        end.sync(*(each for each in end.desired if each.epoch == epoch))


@pytest.mark.root
def test_each_renewal_takes_the_device_that_the_one_before_left(gateways: tuple[Gateway, Gateway]) -> None:
    a, b = gateways
    shake(a, b)
    for epoch, device, other in ((1, "wh-u", "wg-u"), (2, "wg-u", "wh-u"), (3, "wh-u", "wg-u")):
        exchange(a, b, epoch)
        finish(a, b, epoch)
        for end in (a, b):
            assert f"dev {device}" in end.node.ip("-6", "route", "show", "table", "20201")
            assert f"iif {device} lookup 20200" in end.node.ip("-6", "rule")
            assert f"iif {other} lookup" not in end.node.ip("-6", "rule")
            with pytest.raises(AssertionError, match="does not exist"):
                end.node.ip("link", "show", other)
            assert [keys.epoch for keys in end.status().keys] == [epoch]
            assert end.sync(*end.desired) == ()


@pytest.mark.root
def test_what_leaves_takes_the_old_keys_until_the_neighbour_has_the_new_ones(
    gateways: tuple[Gateway, Gateway],
) -> None:
    a, b = gateways
    shake(a, b)
    b.sync(*b.desired, renewed(_keys_of_nobody(), a.domain))
    with b.node.entered():
        assert not b.tunnels.start_handshakes()
    assert b.look()
    assert not b.keys(1).sends
    assert "dev wg-u" in b.node.ip("-6", "route", "show", "table", "20201")
    assert b.node.ip("link", "show", "wh-u")
    b.sync(b.desired[0])
    assert b.status().keys == ()
    with pytest.raises(AssertionError):
        b.node.ip("link", "show", "wh-u")


@pytest.mark.root
def test_an_agent_that_starts_again_goes_on_with_the_keys_that_it_has(gateways: tuple[Gateway, Gateway]) -> None:
    a, b = gateways
    shake(a, b)
    a.sync(*a.desired, begun(1))
    a.tunnels = a.restarted()
    assert a.sync(*a.desired) == ()
    b.sync(*b.desired, renewed(a.keys(1), a.domain))
    b.tunnels = b.restarted()
    assert b.sync(*b.desired) == ()
    a.sync(a.desired[0], renewed(b.keys(1), b.domain))
    a.tunnels = a.restarted()
    finish(a, b, 1)
    for end in (a, b):
        end.tunnels = end.restarted()
        with end.node.entered():
            assert end.tunnels.actual(end.tunnels.read()) == end.desired
        assert end.keys(1).sends
        assert end.sync(*end.desired) == ()


@pytest.mark.root
def test_without_the_same_pre_shared_key_nothing_passes(gateways: tuple[Gateway, Gateway]) -> None:
    """Both have each other's WireGuard keys, and b's secret is of another exchange: so it is ML-KEM's that decides."""
    a, b = gateways
    shake(a, b)
    a.sync(*a.desired, begun(1))
    told = a.keys(1)
    other = MLKEM768PrivateKey.generate().public_key().public_bytes_raw()
    wrong = TunnelKeys(epoch=1, public_key=told.public_key, endpoint=told.endpoint, kem_key=other)
    b.sync(*b.desired, renewed(wrong, a.domain))
    a.sync(a.desired[0], renewed(b.keys(1), b.domain))  # decapsulates to what nobody else has (FIPS 203 §6.3)
    sent = a.status().sent_bytes
    wait_for(lambda: a.status().sent_bytes >= sent + 2 * INITIATION_BYTES, "a has begun, and begun again")
    assert a.look()
    assert b.look()
    assert not a.keys(1).sends
    for end in (a, b):
        end.sync(end.desired[0])
    exchange(a, b, 3)  # the next exchange, rightly
    finish(a, b, 3)


def _keys_of_nobody() -> TunnelKeys:
    key = MLKEM768PrivateKey.generate().public_key().public_bytes_raw()
    public = "aDp1qigymSniyTGZtrgWr+uUAlqMOK7Qr+JpYK60F3I="
    return TunnelKeys(epoch=1, public_key=public, endpoint="192.0.2.1:51821", kem_key=key)


@pytest.mark.root
def test_a_border_without_a_second_port_keeps_its_keys(tmp_path: Path) -> None:
    node = Namespace("a")
    border = BorderConfig(name="border", port=100, interface="u", address="192.0.2.1/30", listen_port=LISTEN, mtu=1420)
    node.ip("link", "add", "u", "type", "veth", "peer", "name", "far")
    try:
        with node.entered():
            tunnels = Tunnels("a", (border,), go(tmp_path), tmp_path)
            first = Tunnel(
                border="border",
                peer_public_key="aDp1qigymSniyTGZtrgWr+uUAlqMOK7Qr+JpYK60F3I=",
                peer_endpoint="192.0.2.2:51820",
                allowed_ips=("5f00:2::/32",),
            )
            assert tunnels.sync((first,))[1] == ()
            _, refused = tunnels.sync((first, begun(1)))
            assert not tunnels.status(tunnels.read())[0].renews
            assert [(each.part, "second_listen_port" in each.reason) for each in refused] == [
                ("tunnels/border/1", True)
            ]
            tunnels.remove_all()
    finally:
        node.remove()
