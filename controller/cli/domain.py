"""`stitch domain add`: the manifest of another domain, from options and from what is known of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from controller.cli.errors import AnswerIsNo, InputInvalid

if TYPE_CHECKING:
    from controller.cli.client import Client


def manifest(
    client: "Client",
    name: str,
    key: str,
    endpoint: str | None,
    certificate: str | None,
    sid_block: str | None,
    trust: str | None,
) -> dict[str, Any]:
    """Raises InputInvalid with everything that is wrong or missing."""
    from controller.language.manifest import read

    try:
        spec = dict(client.get("domains", name)["spec"])
    except AnswerIsNo:
        spec = {}
    given = {"key": key, "endpoint": endpoint, "sid_block": sid_block, "trust": trust}
    spec |= {field: value for field, value in given.items() if value is not None}
    if certificate is not None:
        try:
            spec["certificate"] = Path(certificate).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputInvalid(f"{certificate}: cannot be read: {error}") from error
    needed = ("certificate", "sid_block") if "endpoint" in spec else ()
    missing = [f"--{field.replace('_', '-')}" for field in needed if field not in spec]
    if missing:
        raise InputInvalid(f"domain {name} is not known yet: {' and '.join(missing)} needed too")
    document = {"apiVersion": "netstitch/v1", "kind": "Domain", "metadata": {"name": name}, "spec": spec}
    _, problems = read([document])
    if problems:
        raise InputInvalid("\n".join(f"{'.'.join(map(str, one.path[1:]))}: {one.message}" for one in problems))
    return document
