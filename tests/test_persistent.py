"""Versions of a persistent map against dicts that are copied and gone through."""

import math

from hypothesis import given
from hypothesis import strategies as st

from controller.model.heap import Heap
from controller.model.persistent import GONE, SPARE, Gone, PersistentMap

NAMES = st.sampled_from("abcdefgh")
CHANGES = st.lists(st.tuples(NAMES, st.none() | st.integers()), max_size=40)


def changed(version: PersistentMap[int], name: str, value: int | None) -> PersistentMap[int]:
    if value is not None:
        return version.set(name, value)
    return version.delete(name) if name in version else version


@given(CHANGES)
def test_each_version_stays_what_a_copied_dict_would_be(changes: list[tuple[str, int | None]]) -> None:
    versions: list[tuple[PersistentMap[int], dict[str, int]]] = [(PersistentMap(), {})]
    for name, value in changes:
        version, copied = versions[-1][0], dict(versions[-1][1])
        if value is None:
            copied.pop(name, None)
        else:
            copied[name] = value
        versions.append((changed(version, name, value), copied))
    for version, copied in versions:
        assert list(version) == list(version.keys()) == list(copied), "in the order in which names came"
        assert list(version.items()) == list(copied.items())
        assert list(version.values()) == list(copied.values())
        assert version == copied and len(version) == len(copied) and PersistentMap(copied) == version
        assert [(version.get(name), version.get(name, 7), name in version) for name in "abcdefgh"] == [
            (copied.get(name), copied.get(name, 7), name in copied) for name in "abcdefgh"
        ]


@given(CHANGES, st.lists(st.integers(-9, 9), max_size=3))
def test_what_is_found_by_key_and_by_time_is_what_going_through_all_finds(
    changes: list[tuple[str, int | None]], times: list[int]
) -> None:
    version: PersistentMap[int] = PersistentMap({"a": 3, "b": -3}, keys=_remainders, due=_due_s)
    for number, (name, value) in enumerate(changes):
        earlier, known = version, dict(version)
        version = changed(version, name, value)
        assert dict(earlier) == known
        if number < len(times):
            now_s = times[number]
            ready, version = version.ready(now_s)
            assert ready == [entry_name for entry_name, due in version.items() if _due_s(due) <= now_s]
            assert version.ready(now_s)[0] == ready, "until something is done about it"
        for key in ("0", "1", "2", "odd"):
            names = [entry_name for entry_name, of in version.items() if key in _remainders(of)]
            assert version.by(key) == names and version.count(key) == len(names)
        assert version.by("0", "odd") == [
            entry_name for entry_name, of in version.items() if {"0", "odd"} & _remainders(of)
        ]


@given(CHANGES, st.lists(st.dictionaries(NAMES, st.none() | st.integers(), max_size=8), max_size=5))
def test_many_changes_at_once_are_what_they_are_one_after_the_other(
    earlier: list[tuple[str, int | None]], steps: list[dict[str, int | None]]
) -> None:
    at_once: PersistentMap[int] = PersistentMap({"a": 3, "b": -3}, keys=_remainders, due=_due_s)
    for name, value in earlier:
        at_once = changed(at_once, name, value)
    one_by_one = at_once
    for step in steps:
        known = dict(at_once)
        before, at_once = at_once, at_once.updated({name: _or_gone(value) for name, value in step.items()})
        for name, value in step.items():
            one_by_one = changed(one_by_one, name, value)
        assert dict(before) == known, "the version before stays as it was"
        assert list(at_once.items()) == list(one_by_one.items())
        for key in ("0", "1", "2", "odd"):
            assert (at_once.by(key), at_once.count(key)) == (one_by_one.by(key), one_by_one.count(key))
        for now_s in (-5, 0, 5):
            assert at_once.ready(now_s)[0] == one_by_one.ready(now_s)[0]


def _or_gone(value: int | None) -> int | Gone:
    return GONE if value is None else value


def _remainders(value: int) -> set[str]:
    return {str(value % 3), "odd"} if value % 2 else {str(value % 3)}


def _due_s(value: int) -> float:
    return math.inf if value % 5 == 0 else value


def test_names_that_were_due_and_are_not_any_more_do_not_pile_up() -> None:
    version: PersistentMap[float] = PersistentMap(due=float)
    for number in range(10_000):
        version = version.set(f"n{number % 10}", number)
    assert _size(version._heap) <= 2 * len(version) + SPARE
    assert version.ready(9_995)[0] == [f"n{number}" for number in range(6)]


def _size(heap: Heap | None) -> int:
    return 0 if heap is None else 1 + _size(heap.left) + _size(heap.right)
