"""Equal values that many things have, as one object: of 100,000 intents few say anything that no other says."""

from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)
MOST = 1 << 15
"""So many are remembered. What is forgotten is equal to what comes after it, and no longer the same object."""


class Shared(Generic[T]):
    """Of values of one type."""

    def __init__(self) -> None:
        self._known: dict[T, T] = {}

    def __call__(self, value: T) -> T:
        """This value, or an equal one from before."""
        known = self._known.get(value)
        if known is not None:
            return known
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[value] = value
        return value
