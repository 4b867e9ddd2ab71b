"""The resource store: what a controller must not forget. `Store` is what the shell needs of one."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from controller.errors import ControllerError
from controller.model.event import Record
from controller.model.intent import Value

Key = tuple[str, str]
"""Kind and name of a record."""


class Stored(Value, frozen=True, kw_only=True):
    """A record as it is in the store."""

    record: Record
    version: int
    """Of this record: 1 when it was created, one more with each change. Starts again after a removal."""
    revision: int
    """Of the store, when this record was last changed."""


class Change(Value, frozen=True, kw_only=True):
    """One record as one commit left it (`content` None: removed)."""

    record: Record
    version: int
    """0: removed."""
    revision: int


class Conflict(ControllerError):
    """A record has another version than the writer thought; nothing was written. Read again and decide anew."""

    def __init__(self, key: Key, expected: int, present: int) -> None:
        super().__init__(
            f"{key[0]} {key[1]} has version {present}, not {expected}: somebody else changed it; read it again"
        )
        self.key, self.expected, self.present = key, expected, present


class StoreUnusable(ControllerError):
    """The file cannot be used: damaged, of another schema, held by another process, or the disk fails."""


class RevisionGone(ControllerError):
    """The changes since that revision are no longer kept; load() and watch from there."""


class Store(Protocol):
    async def load(self) -> tuple[tuple[Stored, ...], int]:
        """All records (sorted by kind and name) and the store's revision, as of one moment."""

    async def commit(self, records: Sequence[Record], expected: Mapping[Key, int] | None = None) -> int:
        """Writes all of `records` or nothing; durable when it returns the new revision.

        `expected`: versions that records must have before (0: must not exist); raises Conflict. Raises StoreUnusable.
        """

    def watch(self, after: int) -> AsyncIterator[Change]:
        """Every change of a revision greater than `after`, in order, without a gap; waits for new ones.

        Raises RevisionGone where they are no longer kept, also later, when the reader falls that far behind.
        """

    async def close(self) -> None:
        """After what was asked before has been written."""
