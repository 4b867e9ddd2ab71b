"""The API over TLS: who is pinned is certain before the token is sent, and slow handshakes keep nobody out."""

import asyncio
import contextlib
import hashlib
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import trustme
from northbound_fake import TOKEN, Running, running
from waiting import LIMIT_S

import netstitch
from controller.config import listen
from controller.errors import ConfigInvalid
from controller.northbound import tls
from controller.northbound.connections import STRANGERS_MAX
from controller.northbound.serve import HANDSHAKES_MAX, bound_at

STITCH = Path(sys.executable).parent / "stitch"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return tls.generated(tmp_path, "127.0.0.1")


@pytest.fixture
def api(certificate: tuple[Path, Path]) -> Iterator[Running]:
    with running(certificate=certificate) as api:
        yield api


def stitch(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`get intents`, with a home and a token of its own."""
    (home / "token").write_text(TOKEN)
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    command = [STITCH, "--token-file", str(home / "token"), *arguments, "get", "intents", "-o", "json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environment)


def test_a_pinned_certificate_is_enough_and_another_gets_no_token(
    api: Running, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    pin = tls.fingerprint(certificate[0])
    assert pin.startswith("SHA256:") and len(pin) == 71
    colons = ":".join(pin[7:].upper()[at : at + 2] for at in range(0, 64, 2))
    for way in (pin, pin.upper(), f"sha256 Fingerprint={colons}"):
        done = stitch(tmp_path, "--server", api.url, "--fingerprint", way)
        assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    done = stitch(tmp_path, "--server", api.url, "--fingerprint", f"SHA256:{'0' * 64}")
    assert done.returncode == 4 and "nothing was sent" in done.stderr and pin in done.stderr
    done = stitch(tmp_path, "--server", api.url)
    assert done.returncode == 3 and "nobody vouches for its certificate" in done.stderr
    assert "`stitchd fingerprint`" in done.stderr and "does it run" not in done.stderr
    done = stitch(tmp_path, "--server", api.url, "--ca-file", str(certificate[0]))
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_the_client_s_configuration_has_the_fingerprint(
    api: Running, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    config = tmp_path / ".config" / "netstitch" / "config.yaml"
    config.parent.mkdir(parents=True)
    text = f"domains:\n  shop: {{server: '{api.url}', token_file: '{tmp_path}/token', fingerprint: '%s'}}\n"
    config.write_text(text % tls.fingerprint(certificate[0]))
    assert stitch(tmp_path).returncode == 0
    config.write_text(text % f"SHA256:{'1' * 64}")
    assert stitch(tmp_path).returncode == 4
    config.write_text(text.replace("fingerprint", "finger") % "x")
    done = stitch(tmp_path)
    assert done.returncode == 2 and "fingerprint or ca_file" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--server", "http://192.0.2.1:80"), "could be read on the way"),
        (("--server", "http://127.0.0.1:9", "--fingerprint", "SHA256:" + "0" * 64), "has no certificate"),
        (("--server", "https://127.0.0.1:9", "--fingerprint", "SHA256:12"), "no fingerprint"),
        (("--server", "https://127.0.0.1:9", "--fingerprint", "MD5:" + "0" * 32), "no fingerprint"),
        (("--server", "https://127.0.0.1:9", "--ca-file", "/dev/null"), "CA cannot be read"),
        (("--server", "unix:relative"), "absolute path"),
        (("--server", "ftp://x"), "expected https://HOST:PORT"),
    ],
)
def test_what_would_give_the_token_away_is_refused_before(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = stitch(tmp_path, *options)
    assert done.returncode == 2 and said in done.stderr, done.stderr


def test_a_certificate_of_a_ca_needs_no_pin(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    files = tmp_path / "api.pem", tmp_path / "api.key"
    for at, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(files[0], append=at > 0)
    issued.private_key_pem.write_to_path(files[1])
    files[1].chmod(0o600)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with running(certificate=files) as api:
        done = stitch(tmp_path, "--server", api.url, "--ca-file", str(tmp_path / "ca.pem"))
        assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize(
    ("version", "accepted"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
)
def test_old_tls_is_not_spoken(api: Running, version: ssl.TLSVersion, accepted: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, version
    with socket.create_connection(("127.0.0.1", api.port), timeout=LIMIT_S) as plain:
        try:
            with context.wrap_socket(plain) as secure:
                spoken = secure.version()
        except (ssl.SSLError, ConnectionError):
            spoken = None
    assert (spoken is not None) == accepted


def until_closed(connection: socket.socket) -> bytes:
    """What the other side says until it closes."""
    connection.settimeout(LIMIT_S)
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            said += part
    return said


def test_a_handshake_that_is_slow_or_none_is_ended(certificate: tuple[Path, Path]) -> None:
    with running(certificate=certificate, handshake_deadline_s=1.0) as api:
        with socket.create_connection(("127.0.0.1", api.port)) as silent:
            assert until_closed(silent) == b""
        with socket.create_connection(("127.0.0.1", api.port)) as slow:
            slow.sendall(b"\x16\x03\x01\x02\x00\x01")
            assert until_closed(slow) == b""
        with socket.create_connection(("127.0.0.1", api.port)) as plain:
            plain.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert not until_closed(plain).startswith(b"HTTP/1.1 200")


def test_headers_have_their_deadline_inside_tls_too(certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        running(certificate=certificate, header_deadline_s=1.0) as api,
        context.wrap_socket(socket.create_connection(("127.0.0.1", api.port))) as half,
    ):
        half.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert until_closed(half).startswith(b"HTTP/1.1 408 ")


def test_more_handshakes_than_are_kept_do_not_keep_a_good_one_out(certificate: tuple[Path, Path]) -> None:
    with running(certificate=certificate, handshake_deadline_s=600.0) as api:
        many = [socket.create_connection(("127.0.0.1", api.port), timeout=LIMIT_S) for _ in range(HANDSHAKES_MAX + 20)]
        answer = httpx.get(f"{api.url}/healthz", verify=False, trust_env=False, timeout=LIMIT_S)
        assert answer.json() == {"status": "ok"}
        assert [until_closed(connection) for connection in many[:20]] == [b""] * 20, "the oldest gave way"
        for connection in many:
            connection.close()


def test_connections_of_strangers_keep_nobody_out() -> None:
    """Headers that do not end, whole requests without a token, and nothing at all."""
    with running(header_deadline_s=600.0) as api:
        many = [socket.create_connection(("127.0.0.1", api.port), timeout=LIMIT_S) for _ in range(STRANGERS_MAX + 40)]
        for number, connection in enumerate(many[40:]):
            connection.sendall(
                (b"", b"GET / HTTP/1.1\r\nhost:", b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")[number % 3]
            )
        for _ in range(3):
            headers = {"Authorization": f"Bearer {TOKEN}"}
            answer = httpx.get(f"{api.url}/v1/intents", headers=headers, trust_env=False, timeout=LIMIT_S)
            assert answer.status_code == 200
        assert [until_closed(connection) for connection in many[:40]] == [b""] * 40, "the oldest gave way"
        for connection in many:
            connection.close()


def test_a_certificate_is_made_once_and_kept_private(tmp_path: Path) -> None:
    first, key = tls.generated(tmp_path, "0.0.0.0")
    before = tls.fingerprint(first)
    assert key.stat().st_mode & 0o777 == 0o600
    assert tls.fingerprint(tls.generated(tmp_path, "0.0.0.0")[0]) == before
    key.chmod(0o640)
    with pytest.raises(ConfigInvalid, match="others may read"):
        tls.context(first, key)
    key.chmod(0o600)
    first.unlink()
    assert tls.fingerprint(tls.generated(tmp_path, "::1")[0]) != before, "of the same key, for the new address"
    tls.context(*tls.generated(tmp_path, "::1"))
    key.write_text("nonsense")
    with pytest.raises(ConfigInvalid, match="no certificate"):
        tls.context(first, key)
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        tls.context(tmp_path / "missing", key)


def test_a_unix_socket_is_replaced_when_nobody_listens_and_not_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with bound_at(path):
        assert path.stat().st_mode & 0o777 == 0o660
        with pytest.raises(OSError):
            bound_at(path)
    with bound_at(path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        bound_at(tmp_path / "file")


@pytest.mark.parametrize("text", ["unix:relative", "unix:/" + "x" * 107, "8080", ":8080", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigInvalid, match="listen"):
        listen(text, "listen")


def test_a_renewed_certificate_counts_for_new_connections(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    old, new = tls.generated(tmp_path, "127.0.0.1"), tls.generated(tmp_path / "new", "127.0.0.1")
    live = tls.context(*old)
    with pytest.raises(ConfigInvalid, match="no certificate"):
        tls.renew(live, new[0], old[1])
    assert shown(live) == tls.fingerprint(old[0]), "what is wrong changes nothing"
    tls.renew(live, *new)
    assert shown(live) == tls.fingerprint(new[0])


def shown(server: ssl.SSLContext) -> str:
    """The fingerprint that a client gets to see, over a pair of sockets."""
    ours, theirs = socket.socketpair()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    with ours, theirs, ThreadPoolExecutor(1) as other:
        answered = other.submit(server.wrap_socket, theirs, server_side=True)
        with client.wrap_socket(ours) as secure, answered.result():
            return f"SHA256:{hashlib.sha256(secure.getpeercert(binary_form=True) or b'').hexdigest()}"


def by_a_thread(url: str, pin: str) -> str:
    with netstitch.Client(url, TOKEN, fingerprint=pin) as client:
        return str(client.whoami()["role"])


def by_asyncio(url: str, pin: str) -> str:
    async def ask() -> str:
        async with netstitch.AsyncClient(url, TOKEN, fingerprint=pin) as client:
            return str((await client.whoami())["role"])

    return asyncio.run(ask())


@pytest.mark.parametrize("ask", [by_a_thread, by_asyncio])
def test_programs_pin_a_certificate_too(
    api: Running, certificate: tuple[Path, Path], ask: Callable[[str, str], str]
) -> None:
    pin = tls.fingerprint(certificate[0])
    assert ask(api.url, pin) == ask(api.url, pin.lower()) == "admin"
    with pytest.raises(netstitch.Unreachable, match=f"certificate is {pin}, not the pinned SHA256:0000.*nothing was"):
        ask(api.url, f"SHA256:{'0' * 64}")
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        ask(api.url, "SHA256:1234")
    with pytest.raises(ValueError, match="goes with https://"):
        ask(api.url.replace("https", "http"), pin)
