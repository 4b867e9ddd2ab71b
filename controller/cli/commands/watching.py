"""`--watch`: what is there, then what changes, until somebody ends it."""

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from controller.cli.errors import AnswerIsNo, InputInvalid
from controller.cli.render import Output

if TYPE_CHECKING:
    from controller.cli.client import Client


_POLL_S = 1.0


def follow(client: "Client", kind: str, name: str | None, selection: dict[str, str], output: Output) -> None:
    """What is there, then what changes, until somebody ends it."""
    from controller.cli.client import UNPAGED
    from controller.cli.render import Changes

    if kind in UNPAGED:
        raise InputInvalid(f"{kind} cannot be watched; `stitch get {kind}` shows them")
    changes = Changes(kind, output)
    if name is None:
        resources, since = client.resources(kind, selection)
    else:
        try:
            resources = [client.get(kind, name)]
            since = resources[0]["metadata"].get("revision")
        except AnswerIsNo:  # it may come
            resources, since = [], None
    changes.show(resources)
    for resource in client.watch(kind, name, selection=selection, since=since, known=resources):
        if resource is not None:
            changes.show([resource])


def pause() -> None:
    """What was printed is seen meanwhile."""
    sys.stdout.flush()
    time.sleep(_POLL_S)


def rounds(watch: bool) -> Iterator[None]:
    """Once; or again and again, with a pause between."""
    yield
    while watch:
        pause()
        print()
        yield
