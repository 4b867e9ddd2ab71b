"""What is due first: a leftist heap of which every version stays as it was (Crane 1972)."""

from typing import NamedTuple


class Heap(NamedTuple):
    """Not empty. Nothing below is due before it."""

    due_s: float
    name: str
    rank: int
    """How far down the right side goes."""
    left: "Heap | None"
    right: "Heap | None"


def push(heap: Heap | None, due_s: float, name: str) -> Heap:
    return _merge(heap, Heap(due_s, name, 1, None, None))


def pop(heap: Heap) -> Heap | None:
    """Without its first."""
    return heap.left if heap.right is None else _merge(heap.left, heap.right)


def _merge(heap: Heap | None, other: Heap) -> Heap:
    """As deep as the ranks of both together, which are logarithms of their sizes."""
    if heap is None:
        return other
    if (other.due_s, other.name) < (heap.due_s, heap.name):
        heap, other = other, heap
    right = _merge(heap.right, other)
    left = heap.left
    if left is None or left.rank < right.rank:
        left, right = right, left
    return Heap(heap.due_s, heap.name, 1 if right is None else right.rank + 1, left, right)
