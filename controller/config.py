"""What `stitchd --config FILE` reads, and the secrets it looks after."""

import os
import secrets
from pathlib import Path

import msgspec

from controller.errors import ConfigInvalid


class AgentTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For agents that listen on `host:port`: files in PEM."""

    ca: Path
    """Who signed the certificates of the agents."""
    certificate: Path
    """Ours, with which agents let us in."""
    key: Path
    """Of our certificate."""


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
    """`address:port` of the REST API."""
    token_file: Path
    """Whoever can read it may use the API; made, with mode 0600, where it is missing."""
    eastwest: str
    """`address:port` for other domains."""
    key_dir: Path
    """The domain's keys, from `stitchd keygen`."""
    agent_tls: AgentTls | None = None
    """How we prove to agents that we are their controller; None: they listen on Unix sockets of this machine."""


def load(path: Path) -> Config:
    """Raises ConfigInvalid."""
    try:
        config = msgspec.json.decode(path.read_bytes(), type=Config, dec_hook=_path)
    except OSError as exc:
        raise ConfigInvalid(f"{path}: cannot be read: {exc.strerror}") from exc
    except msgspec.MsgspecError as exc:
        raise ConfigInvalid(f"{path}: {exc}; see stitchd's manual for the fields") from exc
    for name in ("inventory", "policy", "store", "token_file", "key_dir"):
        if not getattr(config, name).is_absolute():
            raise ConfigInvalid(f"{path}: `{name}` must be an absolute path, not {getattr(config, name)}")
    for name in ("listen", "eastwest"):
        address(getattr(config, name), f"{path}: `{name}`")
    return config


def read(path: Path) -> bytes:
    """Raises ConfigInvalid."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigInvalid(f"{path}: cannot be read: {exc.strerror}") from exc


def address(text: str, where: str) -> tuple[str, int]:
    """`127.0.0.1:8080` or `[::1]:8080`. Raises ConfigInvalid."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigInvalid(f"{where} must be ADDRESS:PORT, not {text!r}")
    return host.strip("[]"), int(port)


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
    text = path.read_text().strip()
    if not text:
        raise ConfigInvalid(f"{path}: is empty; remove it, and stitchd makes a new one")
    return text


def _path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"{kind} from {value!r}")
