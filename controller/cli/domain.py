"""`stitch domain add`: the manifest of another domain, from options and from what is known of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from controller.cli.errors import AnswerIsNo, InputInvalid

if TYPE_CHECKING:
    from controller.cli.client import Client


class Public(msgspec.Struct, frozen=True, kw_only=True):
    """What `stitchd keygen` prints."""

    domain: str
    key: str
    certificate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """By what another domain is known: its key, or all of it in a file."""

    key: str | None
    certificate_file: str | None
    public_file: str | None

    def of(self, name: str) -> dict[str, str]:
        """`key` and, where it is said, `certificate`. Raises InputInvalid."""
        if self.public_file is not None:
            if self.key is not None or self.certificate_file is not None:
                raise InputInvalid("--public has key and certificate: leave --key and --certificate out")
            try:
                public = msgspec.json.decode(_read(self.public_file), type=Public)
            except msgspec.MsgspecError as error:
                raise InputInvalid(f"{self.public_file}: not what `stitchd keygen` prints: {error}") from error
            if public.domain != name:
                raise InputInvalid(f"{self.public_file}: the keys of domain {public.domain}, not of {name}")
            return {"key": public.key, "certificate": public.certificate}
        if self.key is None:
            raise InputInvalid("who is it? --public FILE, or --key KEY: both from its operator's `stitchd keygen`")
        return {"key": self.key} | (
            {"certificate": _read(self.certificate_file)} if self.certificate_file is not None else {}
        )


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputInvalid(f"{path}: cannot be read: {error}") from error


def manifest(
    client: "Client", name: str, pins: Pins, endpoint: str | None, sid_block: str | None, trust: str | None
) -> dict[str, Any]:
    """Raises InputInvalid with everything that is wrong or missing."""
    from controller.language.manifest import read

    given = {**pins.of(name), "endpoint": endpoint, "sid_block": sid_block, "trust": trust}
    try:
        spec = dict(client.get("domains", name)["spec"])
    except AnswerIsNo:
        spec = {}
    spec |= {field: value for field, value in given.items() if value is not None}
    needed = ("certificate", "sid_block") if "endpoint" in spec else ()
    missing = [f"--{field.replace('_', '-')}" for field in needed if field not in spec]
    if missing:
        raise InputInvalid(f"domain {name} is not known yet: {' and '.join(missing)} needed too")
    document = {"apiVersion": "netstitch/v1", "kind": "Domain", "metadata": {"name": name}, "spec": spec}
    _, problems = read([document])
    if problems:
        raise InputInvalid(
            "\n".join(f"{'.'.join(map(str, problem.path[1:]))}: {problem.message}" for problem in problems)
        )
    return document
