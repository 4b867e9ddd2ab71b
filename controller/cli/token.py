"""`stitch token`: who may use a controller's API."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from controller.cli.errors import CommandFailed, InputInvalid

if TYPE_CHECKING:
    from controller.cli.client import Client


def create(
    client: "Client", name: str, *, role: str, tenants: list[str], expires: str | None, out: Path | None
) -> None:
    """Prints the secret, or writes it to `out` (0600, a new file). Raises InputInvalid."""
    from controller.cli.client import ManifestsRefused

    asked = {"name": name, "role": role, "tenants": tenants, "lifetime_s": _lifetime_s(expires)}
    file = _new_file(out) if out is not None else None
    try:
        answer = client.create_token({field: value for field, value in asked.items() if value is not None})
    except CommandFailed as error:
        if file is not None and out is not None:
            os.close(file)
            out.unlink()
        if isinstance(error, ManifestsRefused):
            raise InputInvalid("; ".join(message for _, message in error.problems)) from error
        raise
    if file is None:
        print(*answer["results"], sep="\n", file=sys.stderr)
        print(answer["secret"])
    else:
        with open(file, "w") as opened:
            opened.write(f"{answer['secret']}\n")
        print(*answer["results"], sep="\n")


def _lifetime_s(expires: str | None) -> int | None:
    from controller.language.scalars import DURATION

    try:
        return int(DURATION.make(expires)) if expires is not None else None
    except ValueError as error:
        raise InputInvalid(f"--expires {expires!r}: {error}; expected {DURATION.expected}") from error


def _new_file(path: Path) -> int:
    """Before the token is made, so that its secret is not lost."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise InputInvalid(f"{path}: is there already; choose another file for the secret") from error
    except OSError as error:
        raise InputInvalid(f"{path}: cannot be made: {error.strerror}") from error
