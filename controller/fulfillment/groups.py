"""Sets of prefixes -> disjoint groups of addresses (atoms), as a value that changes by what changes.

A group is of the prefixes that are in the very same sets, so an address has one: that of the longest prefix around it.

```
sets       10.0.0.0/24 ────────────────────   a
                 10.0.0.5 ─                   b          group {a}: 10.0.0.0/24, group {a, b}: 10.0.0.5
```

A set that comes or goes changes the groups of the prefixes inside its own, and no others. A group has its number from
the sets that it is in, so that a change elsewhere leaves it alone: a set that is new gives the same number to the same
group whatever came before it (`Numbers`).
"""

import hashlib
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import immutables

from controller.fulfillment.numbering import prefix
from controller.model import prefix_trie
from controller.model.prefix_trie import Prefix, Trie

MAX_GROUP = 0xFFFF
_NAME = 16
"""Bytes of the name of a set."""
Name = bytes
"""Of a set, or of a group: the names of its sets, sorted, one behind the other."""
Rank = tuple[int, str, int]
"""Of a rule among those of a VRF."""


class PrefixSet(NamedTuple):
    prefixes: tuple[str, ...]
    rules: "immutables.Map[Rank, str]"
    """Those that are about it, with their owners."""
    owner: str
    """The first of these by name."""
    groups: tuple[Name, ...] = ()


class Held(NamedTuple):
    """What is known of a prefix."""

    sets: tuple[Name, ...]
    """In which it is itself, sorted."""
    group: Name


class Groups(NamedTuple):
    """Never changes: `GroupsChange` makes the next one."""

    trie: Trie[Held] = None
    prefixes: int = 0
    sets: "immutables.Map[Name, PrefixSet]" = immutables.Map()
    sizes: "immutables.Map[Name, int]" = immutables.Map()
    """How many prefixes each group has."""
    numbers: "immutables.Map[Name, int]" = immutables.Map()
    places: "immutables.Map[int, Name]" = immutables.Map()
    """Whose number is which."""

    def of(self, name: Name | None) -> tuple[int | None, ...]:
        """Numbers of the groups of a set. None: of anybody, who needs none."""
        if name is None:
            return (None,)
        return tuple(self.numbers[group] for group in self.sets[name].groups)

    def entry(self, at: Prefix) -> tuple[int, str] | None:
        """Number and owner of what the group table has of a prefix."""
        atom = prefix_trie.find(self.trie, at)
        return None if atom is None else (self.numbers[atom.group], self.sets[atom.sets[0]].owner)


@lru_cache(16_384)
def set_name(prefixes: tuple[str, ...]) -> Name:
    return hashlib.blake2b(",".join(prefixes).encode(), digest_size=_NAME).digest()


def group_name(sets: Iterable[Name]) -> Name:
    return b"".join(sorted(sets))


def sets_of(group: Name) -> Iterator[Name]:
    return (group[start : start + _NAME] for start in range(0, len(group), _NAME))


class GroupsChange:
    """Lives for one change. `change` is called once; then `now` is the next value."""

    def __init__(self, before: Groups) -> None:
        self.before = self.now = before
        self.sets: dict[Name, tuple[list[int], list[int]]] = {}
        """Of the sets whose groups have changed: numbers that are not theirs any more, and new ones."""
        self.prefixes: dict[Prefix, None] = {}
        """Those of which the group table may have another entry."""

    def change(
        self,
        gone: Collection[tuple[Rank, tuple[str, ...]]],
        new: Collection[tuple[Rank, tuple[str, ...], str]],
    ) -> None:
        """`gone`: rules that are not about these prefixes any more. `new`: those that are, with their owners."""
        sets = self.before.sets.mutate()
        touched: dict[Name, None] = {}
        for rank, prefixes in gone:
            name = set_name(prefixes)
            prefix_set = sets[name]
            owner = "" if prefix_set.rules[rank] == prefix_set.owner else prefix_set.owner
            sets[name] = prefix_set._replace(rules=prefix_set.rules.delete(rank), owner=owner)
            touched[name] = None
        added: dict[tuple[str, ...], dict[Rank, str]] = {}
        for rank, prefixes, owner in new:
            added.setdefault(prefixes, {})[rank] = owner
        for prefixes, owners in added.items():
            name = set_name(prefixes)
            prefix_set = sets.get(name) or PrefixSet(prefixes, immutables.Map(), min(owners.values()))
            owner = min(prefix_set.owner, *owners.values())
            sets[name] = prefix_set._replace(rules=prefix_set.rules.update(owners), owner=owner)
            touched[name] = None
        come: list[Name] = []
        left: list[Name] = []
        for name in touched:
            prefix_set, known = sets[name], self.before.sets.get(name)
            if not prefix_set.rules:
                del sets[name]
                left += [name] if known is not None else []
                continue
            if not prefix_set.owner:  # that of a rule that is gone; others may have the same
                sets[name] = prefix_set = prefix_set._replace(owner=min(prefix_set.rules.values()))
            come += [name] if known is None else []
            if known is not None and known.owner != prefix_set.owner:
                self.prefixes.update(dict.fromkeys(map(prefix, prefix_set.prefixes)))
        self.now = self.before._replace(sets=sets.finish())
        if come or left:
            self._split(come, left)

    def _split(self, come: Iterable[Name], left: Iterable[Name]) -> None:
        """The prefixes inside these sets have other groups."""
        trie, prefixes = self.before.trie, self.before.prefixes
        touched: dict[Prefix, None] = {}
        for name in left:
            for at in map(prefix, self.before.sets[name].prefixes):
                atom = prefix_trie.find(trie, at)
                assert atom is not None
                rest = tuple(name_of_set for name_of_set in atom.sets if name_of_set != name)
                trie = prefix_trie.put(trie, at, Held(rest, atom.group))
                touched[at] = None
        for name in come:
            for at in map(prefix, self.now.sets[name].prefixes):
                atom = prefix_trie.find(trie, at)
                if atom is None:
                    prefixes += 1
                    atom = Held((), b"")
                trie = prefix_trie.put(trie, at, Held(tuple(sorted({*atom.sets, name})), atom.group))
                touched[at] = None
        for at in touched:
            atom = prefix_trie.find(trie, at)
            if atom is not None and not atom.sets:
                trie, prefixes = prefix_trie.remove(trie, at), prefixes - 1
        self.now = self.now._replace(trie=trie, prefixes=prefixes)
        self._regroup(touched)

    def _regroup(self, touched: Iterable[Prefix]) -> None:
        trie = self.now.trie
        sizes: dict[Name, int] = {}
        """How many prefixes more each group has than before."""
        seen: set[Prefix] = set()
        for wide in touched:
            self.prefixes[wide] = None
            before = prefix_trie.find(self.before.trie, wide)
            if before is not None and prefix_trie.find(trie, wide) is None:
                sizes[before.group] = sizes.get(before.group, 0) - 1
            for at, atom in tuple(prefix_trie.inside(trie, wide)):
                if at in seen:
                    continue
                seen.add(at)
                group = group_name({name for atom in prefix_trie.covering(trie, at) for name in atom.sets})
                if group == atom.group:
                    continue
                trie = prefix_trie.put(trie, at, Held(atom.sets, group))
                self.prefixes[at] = None
                sizes[group] = sizes.get(group, 0) + 1
                if atom.group:
                    sizes[atom.group] = sizes.get(atom.group, 0) - 1
        self.now = self.now._replace(trie=trie)
        self._number(sizes)

    def _number(self, changes: Mapping[Name, int]) -> None:
        before, sets, sizes = self.before, self.now.sets.mutate(), self.before.sizes.mutate()
        numbers = Numbers(before.numbers, before.places)
        come: list[Name] = []
        left: list[Name] = []
        for group, count in changes.items():
            size = sizes.get(group, 0) + count
            if size:
                come += [group] if group not in sizes else []
                sizes[group] = size
            elif group in sizes:
                del sizes[group]
                left.append(group)
        for group in left:
            numbers.release(group)
        for group in come:
            numbers.take(group)
        new: dict[Name, list[Name]] = {}
        for group in left:
            for name in sets_of(group):
                self._moved(name)[0].append(before.numbers[group])
                new.setdefault(name, [])
        for group in come:
            for name in sets_of(group):
                self._moved(name)[1].append(numbers.numbers[group])
                new.setdefault(name, []).append(group)
        for name, groups in new.items():
            if (prefix_set := sets.get(name)) is not None:
                sets[name] = prefix_set._replace(
                    groups=(*(group for group in prefix_set.groups if group in sizes), *groups)
                )
        self.now = self.now._replace(sets=sets.finish(), sizes=sizes.finish())
        for group in numbers.moved:
            if group in before.numbers and group in self.now.sizes:
                was, number = before.numbers[group], numbers.numbers[group]
                if was == number:
                    continue
                for name in sets_of(group):
                    here, there = self._moved(name)
                    here.append(was)
                    there.append(number)
                self.prefixes.update(dict.fromkeys(self._prefixes_of(group)))
        self.now = self.now._replace(numbers=numbers.numbers.finish(), places=numbers.places.finish())

    def _moved(self, name: Name) -> tuple[list[int], list[int]]:
        return self.sets.setdefault(name, ([], []))

    def _prefixes_of(self, group: Name) -> Iterator[Prefix]:
        """Each is itself in one of the group's sets."""
        for name in sets_of(group):
            for at in map(prefix, self.now.sets[name].prefixes):
                atom = prefix_trie.find(self.now.trie, at)
                if atom is not None and atom.group == group:
                    yield at


class Numbers:
    """Of names, each from its content: that at which its search begins, or the next that no name before it in the order
    of names has. So which name has which depends on what names there are alone, not on which came first, and a name
    that comes or goes moves hardly any other."""

    def __init__(self, numbers: "immutables.Map[Name, int]", places: "immutables.Map[int, Name]") -> None:
        self.numbers, self.places = numbers.mutate(), places.mutate()
        self.moved: dict[Name, None] = {}

    def take(self, name: Name) -> None:
        number = _begin(name)
        while (other := self.places.get(number)) is not None:
            if name < other:
                self._put(name, number)
                name = other
            number = _next(number)
        self._put(name, number)

    def release(self, name: Name) -> None:
        free = self.numbers.pop(name)
        while True:
            del self.places[free]
            waiting = []
            number = _next(free)
            while (other := self.places.get(number)) is not None:
                if _steps(_begin(other), free) < _steps(_begin(other), number):
                    waiting.append(other)
                number = _next(number)
            if not waiting:
                return
            first = min(waiting)
            was = self.numbers[first]
            self._put(first, free)
            free = was

    def _put(self, name: Name, number: int) -> None:
        self.numbers[name] = number
        self.places[number] = name
        self.moved[name] = None


def _begin(name: Name) -> int:
    return 1 + zlib.crc32(name) % MAX_GROUP


def _next(number: int) -> int:
    return number % MAX_GROUP + 1


def _steps(first: int, last: int) -> int:
    return (last - first) % MAX_GROUP
