"""The trie against a dict that is gone through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.model.prefix_trie import BITS, Prefix, Trie, covering, find, inside, put, remove

LENGTHS = st.integers(0, 6) | st.integers(BITS - 4, BITS)
PREFIXES = st.builds(
    lambda high, low, length: ((high << (BITS - 4) | low) >> (BITS - length) << (BITS - length), length),
    st.integers(0, 15),
    st.integers(0, 7),
    LENGTHS,
)


def _contains(wide: Prefix, narrow: Prefix) -> bool:
    return wide[1] <= narrow[1] and (wide[0] ^ narrow[0]) >> (BITS - wide[1]) == 0


@given(st.lists(st.tuples(PREFIXES, st.booleans()), max_size=40), st.lists(PREFIXES, max_size=5))
def test_a_trie_knows_what_a_dict_knows_and_each_version_stays(
    changes: list[tuple[Prefix, bool]], others: list[Prefix]
) -> None:
    trie: Trie[int] = None
    known: dict[Prefix, int] = {}
    versions: list[tuple[Trie[int], dict[Prefix, int]]] = []
    for number, (prefix, there) in enumerate(changes):
        if there:
            trie = put(trie, prefix, number)
            known[prefix] = number
        elif prefix in known:
            trie = remove(trie, prefix)
            del known[prefix]
        else:
            with pytest.raises(KeyError):
                remove(trie, prefix)
        versions.append((trie, dict(known)))
    for version, then in versions:
        for prefix in {*then, *others}:
            assert find(version, prefix) == then.get(prefix)
            wider = sorted((outer for outer in then if _contains(outer, prefix)), key=lambda outer: outer[1])
            assert covering(version, prefix) == [then[outer] for outer in wider]
            narrower = {inner: content for inner, content in then.items() if _contains(prefix, inner)}
            assert dict(inside(version, prefix)) == narrower


def test_an_empty_trie_has_nothing() -> None:
    assert find(None, (0, 0)) is None
    assert covering(None, (0, 128)) == []
    assert list(inside(None, (0, 0))) == []
