"""`stitch backup` and `stitch restore`: all that a controller must not forget, as a file."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from controller.cli.errors import CommandFailed, InputInvalid, Unreachable

if TYPE_CHECKING:
    from controller.cli.client import Client

BACK_S = 60.0
"""Until a controller that starts again must answer."""
_POLL_S = 0.2


def backup(client: "Client", file: str) -> None:
    """Whole or not at all, and for nobody else's eyes."""
    copy = client.backup()
    path = Path(file)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as written:
            written.write(copy)
            written.flush()
            os.fsync(written.fileno())
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise InputInvalid(f"{file}: cannot be written: {error.strerror}") from error
    print(f"{file}: {len(copy)} bytes")


def restore(client: "Client", file: str) -> None:
    """Returns when the controller answers again."""
    try:
        copy = Path(file).read_bytes()
    except OSError as error:
        raise InputInvalid(f"{file}: cannot be read: {error.strerror}") from error
    print(*client.restore(copy), sep="\n", flush=True)
    deadline = time.monotonic() + BACK_S
    gone = False
    while True:
        try:
            client.doctor()
        except Unreachable as error:
            gone = True
            if time.monotonic() > deadline:
                raise Unreachable(f"the controller does not come back within {BACK_S:g} s: {error}") from error
        except CommandFailed:
            pass  # it answers, if not to this
        else:
            if gone:
                break
        time.sleep(_POLL_S)
    print("the controller answers again")
