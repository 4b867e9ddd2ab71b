"""Versions of what a node shall have, from one to the next by who asks for what, against what would be made of all."""

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from controller.model.entry import Match, OwnedEntry, owned_entry
from controller.model.node_entries import Delta, NodeEntries

ENTRIES = st.builds(
    lambda key, hop, owner: owned_entry(
        table="route",
        match=(Match(field="destination", value=key),),
        action="set_next_hop",
        params=(("next_hop", hop),),
        owner=owner,
    ),
    st.integers(0, 3),
    st.integers(0, 1),
    st.sampled_from(("intents/a", "intents/b", "networks/n")),
)
STEPS = st.lists(st.lists(ENTRIES, max_size=6), min_size=1, max_size=8)


@given(STEPS)
def test_what_changed_leads_to_what_is_made_of_all(steps: list[list[OwnedEntry]]) -> None:
    present: list[OwnedEntry] = []
    entries = NodeEntries()
    delta, first = Delta(since=0), {}
    for wanted in steps:
        before = _by_key(entries)
        entries, put, gone = entries.changed(present, wanted)
        present = wanted
        assert tuple(entries) == tuple(NodeEntries(wanted)) == tuple(NodeEntries(wanted[::-1]))
        assert len(entries) == len({_key(entry) for entry in wanted})
        after = _by_key(entries)
        for key, (effective, *refused) in after.items():
            asked = [entry for entry in wanted if _key(entry) == key]
            assert effective.owner == min(entry.owner for entry in asked)
            contrary = [entry.owner for entry in asked if entry.params != effective.params]
            assert [entry.owner for entry in refused] == sorted(contrary), "who wants something else hears of it"
        left = {key: asked_entries for key, asked_entries in before.items() if key not in set(map(_key, gone))}
        assert left | _by_key(put) == after
        assert all(before.get(key) != asked_entries for key, asked_entries in _by_key(put).items()), (
            "nothing is put that was there"
        )
        delta = delta.then(put, gone)
        together = {key: asked_entries for key, asked_entries in first.items() if key not in set(map(_key, delta.gone))}
        assert together | _by_key(delta.put) == after


def _by_key(entries: Iterable[OwnedEntry]) -> dict[tuple[object, ...], list[OwnedEntry]]:
    by_key: dict[tuple[object, ...], list[OwnedEntry]] = {}
    for entry in entries:
        by_key.setdefault(_key(entry), []).append(entry)
    return by_key


def _key(entry: OwnedEntry) -> tuple[object, ...]:
    return entry.table, entry.match, entry.priority
