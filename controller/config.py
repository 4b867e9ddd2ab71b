"""What `stitchd --config FILE` reads, and the secrets it looks after."""

import enum
import ipaddress
import os
import re
import secrets
from pathlib import Path

import msgspec

from controller.errors import ConfigInvalid
from dataplane.addressing import host_and_port
from dataplane.decoding import from_json

_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9_])?")
"""Of a domain or a user."""
PATH_MAX = 4095
SOCKET_PATH_MAX = 107
"""sun_path of unix(7), with its last zero."""


class AgentTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For agents that listen on `host:port`: files in PEM."""

    ca: Path
    """Who signed the certificates of the agents."""
    certificate: Path
    """Ours, with which agents let us in."""
    key: Path
    """Of our certificate."""


class ApiTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the REST API. Without files (`{}`) stitchd makes a certificate in `key_dir`, whose fingerprint clients pin."""

    certificate: Path | None = None
    """PEM, with the intermediate ones after it."""
    key: Path | None = None
    """PEM, not encrypted, mode 0600."""


class IpfixTransport(enum.StrEnum):
    UDP = "udp"
    TCP = "tcp"


class IpfixConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the flow records of each second go (RFC 7011)."""

    collector: str
    """`address:port`, such as `192.0.2.7:4739`."""
    transport: IpfixTransport = IpfixTransport.UDP
    """`udp`, in messages of at most 1,400 octets, or `tcp`."""


class Listen(msgspec.Struct, frozen=True):
    """An address and port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    @property
    def stays_here(self) -> bool:
        """Whether what is said there does not leave this machine."""
        try:
            return self.path is not None or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    domain: str
    """Name of the domain that this controller is of."""
    inventory: Path
    """Manifests of our own domain, with which a new store begins; then the store is what counts."""
    policy: Path
    """Which offers of other domains we accept."""
    store: Path
    """The database: made where it is missing."""
    listen: str
    """`address:port` of the REST API, or `unix:/path`. Without `tls` only a loopback address or a socket."""
    tls: ApiTls | None = None
    """TLS of the REST API; None: plain HTTP, which does not leave this machine."""
    token_file: Path
    """Whoever can read it is an administrator of the API; made, with mode 0600, where it is missing."""
    tokens: Path | None = None
    """Hashes of all other tokens; None: beside the store."""
    eastwest: str
    """`address:port` for other domains."""
    key_dir: Path
    """The domain's keys, from `stitchd keygen`."""
    agent_tls: AgentTls | None = None
    """How we prove to agents that we are their controller; None: they listen on Unix sockets of this machine."""

    ipfix: IpfixConfig | None = None
    """Export of flow records; None: nothing is exported. Who listens there learns who talks with whom: what is sent is
    not encrypted."""
    plugin_user: str = "nobody"
    """As whom plugins run, where stitchd is root."""

    @property
    def tokens_file(self) -> Path:
        return self.tokens if self.tokens is not None else self.store.with_suffix(".tokens")


def load(path: Path) -> Config:
    """Raises ConfigInvalid."""
    try:
        config = from_json(path.read_bytes(), Config, _path)
    except OSError as exc:
        raise ConfigInvalid(f"{path}: cannot be read: {exc.strerror}") from exc
    except msgspec.MsgspecError as exc:
        raise ConfigInvalid(f"{path}: {exc} (fields: docs/configuration.md)") from exc
    for field, name in (("domain", config.domain), ("plugin_user", config.plugin_user)):
        if not _NAME.fullmatch(name):
            raise ConfigInvalid(f"{path}: `{field}` {name[:60]!r} is no name")
    for name in ("inventory", "policy", "store", "token_file", "key_dir", "tokens"):
        if (value := getattr(config, name)) is not None and not value.is_absolute():
            raise ConfigInvalid(f"{path}: `{name}` must be an absolute path, not {value}")
    address(config.eastwest, f"{path}: `eastwest`")
    if config.ipfix is not None:
        _, port = address(config.ipfix.collector, f"{path}: `ipfix.collector`")
        if not port:
            raise ConfigInvalid(f"{path}: `ipfix.collector` needs the port of the collector; that of IPFIX is 4739")
    _check_api(config, path)
    return config


def read(path: Path) -> bytes:
    """Raises ConfigInvalid."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigInvalid(f"{path}: cannot be read: {exc.strerror}") from exc


def _check_api(config: Config, path: Path) -> None:
    """Raises ConfigInvalid where the API would be heard on the way."""
    api = listen(config.listen, f"{path}: `listen`")
    tls = config.tls
    if tls is not None and (tls.certificate is None) != (tls.key is None):
        raise ConfigInvalid(f"{path}: `tls` needs `certificate` and `key`, or neither: {{}} makes them")
    if tls is not None and api.path is not None:
        raise ConfigInvalid(
            f"{path}: `tls` is of no use on a unix socket, which does not leave this machine: remove it"
        )
    if tls is None and not api.stays_here:
        raise ConfigInvalid(
            f'{path}: `listen` {config.listen}: whoever is on the way could read the tokens; add `"tls": {{}}` (or '
            'your certificate: {"certificate": FILE, "key": FILE}), or listen on 127.0.0.1, [::1] or unix:/PATH'
        )


def listen(text: str, where: str) -> Listen:
    """`127.0.0.1:8080`, `[::1]:8080` or `unix:/run/netstitch/api.sock`. Raises ConfigInvalid."""
    if text.startswith("unix:"):
        try:
            socket_path = _path(Path, text.removeprefix("unix:"))
        except ValueError as error:
            raise ConfigInvalid(f"{where}: {error}") from error
        if not socket_path.is_absolute() or len(os.fsencode(socket_path)) > SOCKET_PATH_MAX:
            raise ConfigInvalid(f"{where} must be unix: and an absolute path of at most {SOCKET_PATH_MAX} bytes")
        return Listen(path=socket_path)
    host, port = address(text, where)
    return Listen(host=host, port=port)


def address(text: str, where: str) -> tuple[str, int]:
    """`127.0.0.1:8080` or `[::1]:8080`. Raises ConfigInvalid."""
    try:
        return host_and_port(text, least_port=0)
    except ValueError as error:
        raise ConfigInvalid(f"{where} must be ADDRESS:PORT: {error}") from error


def token(path: Path) -> str:
    """The API's bearer token. Raises ConfigInvalid where the file is empty, or others may read it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as exc:
            raise ConfigInvalid(f"{path}: cannot be made: {exc.strerror}") from exc
        with open(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    if path.stat().st_mode & 0o077:
        raise ConfigInvalid(f"{path}: others may read this secret; run `chmod go= {path}` and write a new one into it")
    try:
        text = path.read_bytes().decode("latin-1").strip()
    except OSError as exc:
        raise ConfigInvalid(f"{path}: cannot be read: {exc.strerror}") from exc
    if not (text and text.isascii() and text.isprintable()):
        flaw = "is no token" if text else "is empty"
        raise ConfigInvalid(f"{path}: {flaw}; remove it, and stitchd makes a new one")
    return text


def _path(kind: type, value: object) -> Path:
    """Raises ValueError, which msgspec tells with the field that it is of."""
    if kind is not Path or not isinstance(value, str):
        raise ValueError("expected the path of a file")
    if not value.isprintable() or len(value) > PATH_MAX:
        raise ValueError(f"{value[:60]!r} is no path: it is too long, or has characters that do not print")
    return Path(value)
