"""Tables of the state while a step changes them: the version before stays as it was, and what was changed is known."""

from typing import Any, Generic, TypeVar

from controller.model.persistent import GONE, Gone, PersistentMap

T = TypeVar("T")


class Table(Generic[T]):
    """One of the state's mappings in this step: the version before is as it was, and what was changed is known."""

    def __init__(self, stored: PersistentMap[T]) -> None:
        self._held = stored
        self._new: dict[str, T | Gone] = {}
        """What is not in it yet: a version for each change of thousands would be made for nobody."""
        self.touched: dict[str, None] = {}

    @property
    def all(self) -> PersistentMap[T]:
        self._settle()
        return self._held

    @property
    def changed(self) -> bool:
        return bool(self.touched)

    def get(self, name: str) -> T | None:
        new = self._new.get(name) if self._new else None
        if new is None:
            return self._held.get(name)
        return None if new is GONE else new

    def put(self, name: str, value: T) -> None:
        stored = self.get(name)
        if stored is value or (stored is not None and stored == value):
            return
        self.touched[name] = None
        if stored is None and name in self._new:
            self._settle()  # what comes anew comes last
        self._new[name] = value

    def drop(self, name: str) -> None:
        if self.get(name) is not None:
            self.touched[name] = None
            self._new[name] = GONE

    def ready(self, now_s: float) -> list[str]:
        """What is due."""
        names, self._held = self.all.ready(now_s)
        return names

    def _settle(self) -> None:
        if self._new:
            self._held, self._new = self._held.updated(self._new), {}


class SmallTable(Generic[T]):
    """The same of a dict, which is copied when it is first changed."""

    def __init__(self, stored: dict[str, T]) -> None:
        self._held = stored
        self.touched: dict[str, None] = {}
        self.changes = 0
        """So far."""

    @property
    def all(self) -> dict[str, T]:
        """Not to be changed."""
        return self._held

    @property
    def changed(self) -> bool:
        return bool(self.touched)

    def get(self, name: str) -> T | None:
        return self._held.get(name)

    def put(self, name: str, value: T) -> None:
        if name in self._held and self._held[name] == value:
            return
        self._touch(name)
        self._held[name] = value

    def drop(self, name: str) -> None:
        if name in self._held:
            self._touch(name)
            del self._held[name]

    def _touch(self, name: str) -> None:
        if not self.touched:
            self._held = dict(self._held)
        self.touched[name] = None
        self.changes += 1


AnyTable = Table[Any] | SmallTable[Any]
