"""A mapping of which every version stays as it was while the next one is made from it.

A step changes a few of 100,000 things: copying a dict of all of them would take milliseconds a table, this takes a few
microseconds a change. Who reads keeps the version that it has. What a step looks for it finds by key or by time, not by
going through all.
"""

import enum
import math
from collections.abc import Callable, Collection, ItemsView, Iterable, Iterator, Mapping, ValuesView
from typing import Any, Final, Generic, Literal, Self, TypeVar, overload

import immutables

from controller.model.heap import Heap, pop, push

T = TypeVar("T")
U = TypeVar("U")
_Slot = tuple[int, T]
"""Place in the order, and value."""
SPARE = 64
"""So many names that are not due any more then, beside as many as there are in all, the heap may have."""


class Gone(enum.Enum):
    """In the place of a value: there is none any more."""

    GONE = enum.auto()


GONE: Final[Literal[Gone.GONE]] = Gone.GONE


def _no_keys(value: object) -> Collection[str]:
    return ()


def _never(value: object) -> float:
    return math.inf


class PersistentMap(Mapping[str, T], Generic[T]):
    """In the order in which names first came, as a dict. Whoever goes through all of it has them sorted first."""

    __slots__ = ("_due", "_heap", "_heaped", "_keys", "_names", "_next", "_slots")

    def __init__(
        self,
        items: Mapping[str, T] | Iterable[tuple[str, T]] = (),
        *,
        keys: Callable[[T], Collection[str]] = _no_keys,
        due: Callable[[T], float] = _never,
    ) -> None:
        """`keys`: under which a value is found by `by`. `due`: when it is to be looked at; infinite: at no time."""
        ordered = dict(items)
        self._slots: immutables.Map[str, _Slot[T]] = immutables.Map(
            (name, (place, value)) for place, (name, value) in enumerate(ordered.items())
        )
        self._next = len(ordered)
        self._keys, self._due = keys, due
        self._names: immutables.Map[str, immutables.Map[str, None]] = immutables.Map()
        self._heap: Heap | None = None
        self._heaped = 0
        for name, value in ordered.items() if keys is not _no_keys else ():
            self._file(name, (), keys(value))
        self._heap_anew()

    # ---- versions

    def set(self, name: str, value: T) -> Self:
        """The next version, in which this is so."""
        slot = self._slots.get(name)
        made = self._copy()
        if slot is None:
            made._slots = self._slots.set(name, (self._next, value))
            made._next += 1
        else:
            made._slots = self._slots.set(name, (slot[0], value))
        if self._keys is not _no_keys:
            made._file(name, () if slot is None else self._keys(slot[1]), self._keys(value))
        if self._due is _never:
            return made
        made._await(name, self._due(value), math.inf if slot is None else self._due(slot[1]))
        if made._heaped > 2 * len(made._slots) + SPARE:
            made._heap_anew()
        return made

    def delete(self, name: str) -> Self:
        """The next version, without it. Raises KeyError."""
        made = self._copy()
        made._file(name, self._keys(self._slots[name][1]), ())
        made._slots = self._slots.delete(name)
        return made

    def updated(self, changes: Mapping[str, T | Gone]) -> Self:
        """The next version, in which all of these are so: as if they were set and deleted one after the other, with
        less work. Names to be deleted need not be there."""
        made, slots = self._copy(), self._slots.mutate()
        filed: dict[str, dict[str, bool]] = {}
        """Of each key, which names are filed under it now and were not, or the other way about."""
        for name, value in changes.items():
            slot = slots.get(name)
            if value is GONE:
                if slot is None:
                    continue
                del slots[name]
                after: Collection[str] = ()
            else:
                slots[name] = (made._next if slot is None else slot[0], value)
                made._next += slot is None
                after = self._keys(value)
                if self._due is not _never:
                    made._await(name, self._due(value), math.inf if slot is None else self._due(slot[1]))
            before: Collection[str] = () if slot is None else self._keys(slot[1])
            if before != after:
                for key in before:
                    if key not in after:
                        filed.setdefault(key, {})[name] = False
                for key in after:
                    if key not in before:
                        filed.setdefault(key, {})[name] = True
        made._slots = slots.finish()
        if filed:
            made._file_all(filed)
        if made._heaped > 2 * len(made._slots) + SPARE:
            made._heap_anew()
        return made

    def _await(self, name: str, due_s: float, before_s: float) -> None:
        if due_s not in (before_s, math.inf):
            self._heap = push(self._heap, due_s, name)
            self._heaped += 1

    def _file_all(self, filed: Mapping[str, Mapping[str, bool]]) -> None:
        by_key = self._names.mutate()
        for key, moved in filed.items():
            names = by_key.get(key, immutables.Map()).mutate()
            for name, is_there in moved.items():
                if is_there:
                    names[name] = None
                else:
                    del names[name]
            if left := names.finish():
                by_key[key] = left
            else:
                del by_key[key]
        self._names = by_key.finish()

    def ready(self, now_s: float) -> tuple[list[str], Self]:
        """What is due, in the order of the map, and a version that knows the same with less work next time."""
        heap, heaped = self._heap, self._heaped
        due_by_name: dict[str, float] = {}
        while heap is not None and heap.due_s <= now_s:
            slot = self._slots.get(heap.name)
            if slot is not None and self._due(slot[1]) == heap.due_s:
                due_by_name[heap.name] = heap.due_s
            heap, heaped = pop(heap), heaped - 1
        if heaped == self._heaped:
            return [], self
        for name, due_s in due_by_name.items():
            heap, heaped = push(heap, due_s, name), heaped + 1
        made = self._copy()
        made._heap, made._heaped = heap, heaped
        return self.in_order(due_by_name), made

    def _copy(self) -> Self:
        made = object.__new__(type(self))
        made._slots, made._next, made._keys, made._due = self._slots, self._next, self._keys, self._due
        made._names, made._heap, made._heaped = self._names, self._heap, self._heaped
        return made

    def _file(self, name: str, before: Collection[str], after: Collection[str]) -> None:
        """Under these keys instead of those."""
        if before == after:
            return
        for key in {*before} - {*after}:
            left = self._names[key].delete(name)
            self._names = self._names.set(key, left) if left else self._names.delete(key)
        for key in {*after} - {*before}:
            self._names = self._names.set(key, self._names.get(key, immutables.Map()).set(name, None))

    def _heap_anew(self) -> None:
        self._heap, self._heaped = None, 0
        for name, (_, value) in self._slots.items() if self._due is not _never else ():
            if (due_s := self._due(value)) < math.inf:
                self._heap = push(self._heap, due_s, name)
                self._heaped += 1

    # ---- what there is

    def by(self, *keys: str) -> list[str]:
        """Names of what has one of these keys, in the order of the map."""
        return self.in_order({name for key in keys for name in self._names.get(key, ())})

    def count(self, key: str) -> int:
        return len(self._names.get(key, ()))

    def in_order(self, names: Iterable[str]) -> list[str]:
        """Those of them that there are, each once."""
        return sorted({name for name in names if name in self._slots}, key=lambda name: self._slots[name][0])

    def __getitem__(self, name: str) -> T:
        return self._slots[name][1]

    @overload
    def get(self, name: str, /) -> T | None: ...
    @overload
    def get(self, name: str, /, default: T | U) -> T | U: ...
    def get(self, name: str, /, default: Any = None) -> Any:
        slot = self._slots.get(name)
        return slot[1] if slot is not None else default

    def __contains__(self, name: object) -> bool:
        return name in self._slots

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._sorted())

    def items(self) -> ItemsView[str, T]:
        return _Items(self)

    def values(self) -> ValuesView[T]:
        return _Values(self)

    def _sorted(self) -> list[tuple[str, _Slot[T]]]:
        return sorted(self._slots.items(), key=_place)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self)!r})"


def _place(item: tuple[str, tuple[int, Any]]) -> int:
    return item[1][0]


class _Items(ItemsView[str, T]):
    _mapping: PersistentMap[T]

    def __iter__(self) -> Iterator[tuple[str, T]]:
        return ((name, slot[1]) for name, slot in self._mapping._sorted())


class _Values(ValuesView[T]):
    _mapping: PersistentMap[T]

    def __iter__(self) -> Iterator[T]:
        return (slot[1] for _, slot in self._mapping._sorted())
