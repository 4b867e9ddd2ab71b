"""Digests of tables: another one for other contents, the same for the same, wherever in a map something is."""

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dataplane.tables.table_digest import _Contents

ROWS, WIDTH = 6, 16


@dataclass
class Memory:
    """An array that is shared with the kernel."""

    values: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((ROWS, WIDTH), np.uint8))
    is_memory = True

    def memory(self) -> NDArray[np.uint8]:
        return self.values

    def items(self) -> tuple[bytes, bytes]:
        raise AssertionError("it is memory")


@dataclass
class Hash:
    pairs: tuple[bytes, bytes] = (b"", b"")
    is_memory = False

    def memory(self) -> NDArray[np.uint8]:
        raise AssertionError("it is no memory")

    def items(self) -> tuple[bytes, bytes]:
        return self.pairs


OCTETS = st.tuples(st.integers(0, ROWS - 1), st.integers(0, WIDTH - 1), st.sampled_from([0, 1, 255]))


@given(st.lists(st.lists(OCTETS, max_size=3), max_size=12))
def test_a_digest_is_the_same_for_the_same_memory_and_no_other(steps: list[list[tuple[int, int, int]]]) -> None:
    source = Memory()
    contents = _Contents(source)
    digests = {source.values.tobytes(): contents.digest()}
    for step in steps:
        for row, column, octet in step:
            source.values[row, column] = octet
        digest = contents.digest()
        assert digests.setdefault(source.values.tobytes(), digest) == digest
        assert _Contents(source).digest() == digest, "it does not depend on what was there before"
    assert len({*digests.values()}) == len(digests)


def test_memory_of_another_size_has_another_digest() -> None:
    assert _Contents(Memory()).digest() != _Contents(Memory(np.zeros((ROWS + 1, WIDTH), np.uint8))).digest()


def test_what_a_hash_holds_is_told_apart_from_how_it_is_cut() -> None:
    source = Hash()
    contents = _Contents(source)
    seen = [contents.digest()]
    for source.pairs in ((b"k", b"v"), (b"kv", b""), (b"k", b"w"), (b"", b"")):
        seen.append(contents.digest())
    assert len({*seen[:4]}) == 4
    assert seen[4] == seen[0]
