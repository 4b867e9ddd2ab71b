"""How `stitch` connects to a controller: TCP, TLS or a unix socket. Before the token is sent it is certain to whom."""

import hashlib
import hmac
import http.client
import ipaddress
import re
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from controller.cli.errors import InputInvalid, NotAllowed

UNIX = "unix:"
_PREFIX = re.compile(r"sha256(?:[:=]| fingerprint=)", re.IGNORECASE)
_DIGITS = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a controller is, and by what it is known."""

    secure: bool = False
    host: str = ""
    port: int | None = None
    path: str = ""
    """Of a unix socket."""
    base: str = ""
    """What stands before every path of the API."""
    fingerprint: str = ""
    """SHA-256 of its certificate, hexadecimal; empty: a CA vouches for it."""
    ca_file: str = ""

    def connect(self, timeout_s: float) -> http.client.HTTPConnection:
        """Raises OSError, UnicodeError, NotAllowed (the certificate is another), InputInvalid (no CA in the file)."""
        connection = self._connection(timeout_s)
        try:
            connection.connect()
            if self.fingerprint:
                self._check(connection.sock)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        if self.path:
            return _UnixConnection(self.path, timeout_s)
        if not self.secure:
            return http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        return http.client.HTTPSConnection(self.host, self.port, timeout=timeout_s, context=self._context())

    def _context(self) -> ssl.SSLContext:
        if self.fingerprint:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE  # `connect` compares the certificate itself
        else:
            try:
                context = ssl.create_default_context(cafile=self.ca_file or None)
            except (OSError, ssl.SSLError) as error:
                reason = error.strerror if not isinstance(error, ssl.SSLError) else "no certificate in PEM"
                raise InputInvalid(f"{self.ca_file}: the CA cannot be read: {reason}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def _check(self, connected: socket.socket) -> None:
        certificate = connected.getpeercert(binary_form=True) if isinstance(connected, ssl.SSLSocket) else None
        digest = hashlib.sha256(certificate or b"").hexdigest()
        if not hmac.compare_digest(digest, self.fingerprint):
            raise NotAllowed(
                f"the certificate of {self.host} is SHA256:{digest}, not the pinned SHA256:{self.fingerprint}: nothing "
                "was sent; if it was renewed, `stitchd fingerprint` on that machine says what to pin"
            )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def address(server: str, fingerprint: str = "", ca_file: str = "") -> Address:
    """Of a URL: `https://HOST:PORT`, `http://` on this machine, `unix:/PATH`. Raises InputInvalid."""
    if fingerprint and ca_file:
        raise InputInvalid("a fingerprint or a CA file: one of them says who the controller is")
    if server.startswith(UNIX):
        path = server.removeprefix(UNIX)
        if not path.startswith("/"):
            raise InputInvalid(f"{server}: expected unix: and the absolute path of a socket")
        _refuse_pins(server, fingerprint, ca_file)
        return Address(path=path)
    try:
        url = urlsplit(server)
        host, port = url.hostname or "", url.port
    except ValueError as error:
        raise InputInvalid(
            f"{server}: {error}; expected https://HOST:PORT, http://127.0.0.1:PORT or unix:/PATH"
        ) from error
    if url.scheme not in ("http", "https") or not host:
        raise InputInvalid(f"{server}: expected https://HOST:PORT, http://127.0.0.1:PORT or unix:/PATH")
    base = url.path.rstrip("/")
    if url.scheme == "https":
        return Address(
            secure=True,
            host=host,
            port=port,
            base=base,
            fingerprint=_digest(fingerprint) if fingerprint else "",
            ca_file=str(Path(ca_file).expanduser()) if ca_file else "",
        )
    _refuse_pins(server, fingerprint, ca_file)
    if not _is_here(host):
        raise InputInvalid(f"{server}: the token could be read on the way; use https:// (or a tunnel to this machine)")
    return Address(host=host, port=port, base=base)


def _refuse_pins(server: str, fingerprint: str, ca_file: str) -> None:
    if fingerprint or ca_file:
        raise InputInvalid(f"{server} has no certificate: a fingerprint or CA file goes with https://")


def _digest(fingerprint: str) -> str:
    """Of `SHA256:...`, in hexadecimal digits with or without colons, as openssl prints it too."""
    digits = _PREFIX.sub("", fingerprint.strip()).replace(":", "").lower()
    if not _DIGITS.fullmatch(digits):
        raise InputInvalid(f"{fingerprint[:100]!r} is no fingerprint: expected SHA256: and 64 hexadecimal digits")
    return digits


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
