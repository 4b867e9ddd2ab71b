"""Whether somebody still waits for the answer that is worked out here.

Answers are worked out in threads, which nobody can end. Who has waited so long that he was told to try again (503)
waits no longer: what is worked out for him all the same keeps others waiting, and he asks again besides.
"""

import contextlib
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")


class Asker:
    """Of one request."""

    def __init__(self) -> None:
        self.is_gone = False


class NobodyWaits(Exception):
    """So that it is not worked out any further."""


_ASKER: ContextVar[Asker | None] = ContextVar("asker", default=None)


@contextlib.contextmanager
def asked() -> Iterator[Asker]:
    """Whatever is worked out inside, also in other threads, is for this one."""
    asker = Asker()
    token = _ASKER.set(asker)
    try:
        yield asker
    finally:
        _ASKER.reset(token)


def waited_for(parts: Iterable[T]) -> Iterator[T]:
    """Each of them. Raises NobodyWaits where that is so."""
    asker = _ASKER.get()
    for part in parts:
        if asker is not None and asker.is_gone:
            raise NobodyWaits
        yield part
