"""The memory of a controller's process: what is looked through for cycles, and when."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from controller.process import Collecting, collect_seldom


class Ring:
    """Refers to itself: gone only when somebody looks for cycles."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    gc.collect()
    collect_seldom()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()
    gc.collect()


def grow_old() -> None:
    """As many collections of the middle generation as make the eldest's turn."""
    for _ in range(20):
        gc.collect(1)


def ring() -> weakref.ref[Ring]:
    return weakref.ref(Ring())


def test_cycles_that_are_left_go_and_what_is_in_use_is_not_looked_through_again() -> None:
    collecting, state = Collecting(), [[number] for number in range(1000)]
    left = ring()
    grow_old()
    collecting.turn(busy=False)
    assert left() is None
    assert gc.get_freeze_count() > len(state) and not any(each is state for each in gc.get_objects())


def test_it_waits_for_what_is_worked_out_but_not_for_ever() -> None:
    collecting = Collecting()
    grow_old()
    for _ in range(10):
        collecting.turn(busy=True)
    assert collecting.count == 0
    collecting.turn(busy=True)
    assert collecting.count == 1


def test_without_new_objects_nothing_is_done() -> None:
    collecting = Collecting()
    gc.collect()
    collecting.turn(busy=False)
    assert collecting.count == 0


def test_a_cycle_that_was_in_use_before_goes_too_some_time() -> None:
    """Such as a connection that was open for long."""
    collecting, kept = Collecting(), Ring()
    gone = weakref.ref(kept)
    grow_old()
    collecting.turn(busy=False)
    del kept
    for _ in range(100):
        grow_old()
        collecting.turn(busy=False)
        if gone() is None:
            break
    assert gone() is None
    assert 2 < collecting.count <= 64
