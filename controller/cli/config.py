"""Which controller a command talks to: --server, else the config file, else the running lab of this checkout.

The config file is ~/.config/netstitch/config.yaml:

```yaml
default: shop
domains:
  shop: {server: "https://controller.shop.example:7443", token_file: ~/.config/netstitch/shop.token}
```

A controller whose certificate no CA of this system vouches for has `fingerprint: "SHA256:..."` there too (`stitchd
fingerprint` prints it), or `ca_file: FILE`. A server may also be `unix:/PATH`, or `http://` on this machine.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controller.cli.errors import AnswerIsNo, InputInvalid, NotAllowed, Unreachable

if TYPE_CHECKING:
    from topologies.record import LabRecord

CONFIG_FILE = Path("~/.config/netstitch/config.yaml")
_FIELDS = {"server", "token_file", "fingerprint", "ca_file"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The global options."""

    domain: str | None = None
    server: str | None = None
    token_file: str | None = None
    lab: str | None = None
    fingerprint: str | None = None
    ca_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    server: str
    """URL."""
    token: str
    said_by: str
    """Where that comes from, for people."""
    lab: str | None = None
    """The lab on this machine whose controller it is."""
    fingerprint: str = ""
    ca_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    server: str
    token_file: str
    fingerprint: str = ""
    ca_file: str = ""


def target(choice: Choice) -> Target:
    """Raises InputInvalid, AnswerIsNo (no such domain), Unreachable (nothing to talk to), NotAllowed."""
    if choice.server is not None:
        if choice.token_file is None:
            raise InputInvalid("--server needs --token-file: the file with that controller's token")
        given = _Known(server=choice.server, token_file=choice.token_file)
        return _target(choice, given, "--server")
    config_file = CONFIG_FILE.expanduser()
    if choice.lab is None and config_file.exists():
        default, known = _read_config(config_file)
        return _pick(choice, known, default, str(config_file))
    return _of_lab(choice)


def domains(choice: Choice) -> tuple[str, ...]:
    """Whose controllers can be chosen with --domain. Raises as `target`."""
    config_file = CONFIG_FILE.expanduser()
    if choice.lab is None and config_file.exists():
        return tuple(_read_config(config_file)[1])
    return tuple(domain.name for domain in _lab(choice).domains)


def _pick(choice: Choice, known: Mapping[str, _Known], default: str, source: str) -> Target:
    name = choice.domain or default
    if name not in known:
        raise AnswerIsNo(f"{source} knows no domain {name}: one of {', '.join(known) or 'none'}")
    return _target(choice, known[name], f"domain {name} in {source}")


def _target(choice: Choice, known: _Known, said_by: str) -> Target:
    """What is given as an option goes before what is known."""
    by_option = choice.fingerprint or choice.ca_file
    return Target(
        server=known.server,
        token=_token(choice.token_file or known.token_file),
        said_by=said_by,
        fingerprint=choice.fingerprint or ("" if by_option else known.fingerprint),
        ca_file=choice.ca_file or ("" if by_option else known.ca_file),
    )


def _of_lab(choice: Choice) -> Target:
    record = _lab(choice)
    if not record.domains:
        raise AnswerIsNo(f"lab {record.lab} is bare: it has no controllers")
    known = {
        domain.name: _Known(server=f"http://{domain.listen}", token_file=domain.token_file) for domain in record.domains
    }
    return replace(_pick(choice, known, record.domains[0].name, f"lab {record.lab}"), lab=record.lab)


def _lab(choice: Choice) -> "LabRecord":
    from topologies import lab  # only here: other commands start faster without it
    from topologies.errors import LabError, NotFound, RequestInvalid

    try:
        return lab.find(choice.lab)
    except RequestInvalid as error:
        raise InputInvalid(str(error)) from error
    except NotFound as error:
        if choice.lab is not None:
            raise AnswerIsNo(str(error)) from error
        raise Unreachable(
            f"which controller? {error}; or give --server URL and --token-file, or write {CONFIG_FILE}"
        ) from error
    except PermissionError as error:
        raise NotAllowed(f"{error.filename} cannot be read: labs are root's; run it with sudo") from error
    except LabError as error:
        raise Unreachable(str(error)) from error


def _token(path: str) -> str:
    try:
        token = Path(path).expanduser().read_text().strip()
    except PermissionError as error:
        raise NotAllowed(f"{path}: the token cannot be read: {error.strerror}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputInvalid(f"{path}: the token cannot be read: {getattr(error, 'strerror', error)}") from error
    if not token or not token.isascii() or not token.isprintable():
        raise InputInvalid(f"{path}: no token in it: expected one line of printable ASCII")
    return token


def _read_config(path: Path) -> tuple[str, dict[str, _Known]]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        data: Any = YAML(typ="safe", pure=True).load(path.read_text())
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else f"{path}:1:1"
        raise InputInvalid(f"{where}: not well-formed YAML: {error.problem}") from error
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise InputInvalid(f"{path}: cannot be read: {error}") from error
    domains = data.get("domains") if isinstance(data, dict) else None
    if not isinstance(domains, dict) or not domains:
        raise InputInvalid(f"{path}: expected `domains:` with NAME: {{server: URL, token_file: FILE}}")
    known: dict[str, _Known] = {}
    for name, domain in domains.items():
        if not isinstance(domain, dict) or not {"server", "token_file"} <= {*domain} <= _FIELDS:
            expected = "{server: URL, token_file: FILE}, and fingerprint or ca_file"
            raise InputInvalid(f"{path}: domains.{name}: expected {expected}")
        known[str(name)] = _Known(**{field: os.path.expanduser(str(value)) for field, value in domain.items()})
    return str(data.get("default", next(iter(known)))), known
