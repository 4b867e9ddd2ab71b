"""WireGuard devices: what they are told, what they say, and the keys, which never leave the node.

Two implementations of one Protocol: `wireguard_kernel` where the kernel has WireGuard, `wireguard_go` elsewhere.
Keys are X25519 (RFC 7748) in base64, as `wg genkey` writes them.
"""

import base64
import functools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from dataplane.errors import NodeRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    public_key: str
    endpoint: str
    """`address:port`; IPv6 in brackets; empty: not known, the peer must begin."""
    allowed_ips: tuple[str, ...]
    """Sorted prefixes."""
    persistent_keepalive_s: int
    preshared_key: str = field(default="", repr=False)
    """Base64; empty: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """What a device shall be. Peers that are not named are removed."""

    private_key: str = field(repr=False)
    listen_port: int
    peers: tuple[Peer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerTraffic:
    latest_handshake_s: float
    """Unix time; 0 = never."""
    received_bytes: int
    sent_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """What a device is. `public_key` is empty while it has no private key."""

    public_key: str
    listen_port: int
    peers: tuple[Peer, ...]
    traffic: tuple[PeerTraffic, ...]
    """In the order of `peers`."""

    def matches(self, config: DeviceConfig) -> bool:
        return (self.public_key, self.listen_port, set(self.peers)) == (
            public_key(config.private_key),
            config.listen_port,
            set(config.peers),
        )


class WireGuard(Protocol):
    """All methods raise NodeRefused when the kernel or the process does not do it."""

    @property
    def software(self) -> str:
        """`kernel`, `wireguard-go`, or `none` where it is neither in the kernel nor installed."""

    def begin(self, device: str) -> None:
        """Begins to make the interface, where nobody serves it; what is left of an old one goes."""

    def create(self, device: str, wait_s: float = 5.0) -> None:
        """The interface is there, down and without keys. Raises NodeRefused also where that takes longer than `wait_s`:
        what has begun goes on meanwhile."""

    def configure(self, device: str, config: DeviceConfig) -> None:
        """Makes an existing device be `config`, without dropping sessions of peers that stay."""

    def read(self, device: str) -> DeviceState | None:
        """None: no such device, or nobody serves it."""

    def start_handshakes(self, device: str) -> bool:
        """Begins anew with peers that never shook hands; returns whether there was one.

        Two first messages that cross spoil each other, and one that came too early is lost; WireGuard itself tries
        again only after 5 s (REKEY_TIMEOUT).
        """

    def remove(self, device: str) -> None:
        """Nothing of the device is left afterwards; does nothing where there is nothing."""


NO_PRESHARED_KEY = base64.b64encode(bytes(32)).decode()
"""As which WireGuard says that there is none."""


@functools.lru_cache(maxsize=256)
def public_key(private_key: str) -> str:
    key = X25519PrivateKey.from_private_bytes(base64.b64decode(private_key, validate=True))
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


@dataclass(frozen=True, slots=True)
class KeyStore:
    """Private keys, one file (0600) for each name in a directory (0700)."""

    directory: Path

    def path(self, name: str) -> Path:
        return self.directory / f"{name}.key"

    def private_key(self, name: str) -> str:
        """The key called `name`, made now if there is none. Durable when this returns. Raises NodeRefused."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.path(name).exists():
            made = X25519PrivateKey.generate().private_bytes_raw()
            write_durably(self.path(name), base64.b64encode(made) + b"\n")
        return self._read(name)

    def present(self, name: str) -> str:
        """The key called `name`; empty: there is none. Raises NodeRefused."""
        return self._read(name) if self.path(name).exists() else ""

    def _read(self, name: str) -> str:
        """Raises NodeRefused where the file is not a key: a new one would silently cut the tunnel off from its peer."""
        path = self.path(name)
        text = path.read_text().strip()
        try:
            public_key(text)
        except ValueError as error:
            raise NodeRefused(
                f"{path} is not a WireGuard private key: restore it, or remove it to have a new one made "
                "(the neighbour must then learn the new public key)"
            ) from error
        return text


def write_durably(path: Path, content: bytes) -> None:
    """A file that its owner alone can read, whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
