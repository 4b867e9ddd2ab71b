"""Names of entries: one for each key, the same for ever, and found again."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from controller.model.entry import Match, OwnedEntry, owned_entry
from controller.views import entry_view, resource_view
from tests.simulator import ORDER_PROCESSING, World

ANOTHER = """\
apiVersion: netstitch/v1
kind: Intent
metadata: {name: aaa-first, tenant: customer-x}
spec:
  priority: 900
  allow: [{to: insight/analytics/analytics-y, ports: [icmp], from: {network: shop/customer-x, select: {app: web}}}]
"""


def names(world: World) -> dict[str, OwnedEntry]:
    """Without owners: an entry that two intents need is the older one's, or the more important one's."""
    state = world.controllers["shop"].state
    return {name: msgspec.structs.replace(entry, owner="") for name, _, entry in entry_view.named_entries(state)}


def test_other_entries_that_come_and_go_change_no_name() -> None:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(20.0)
    before = names(world)
    world.apply("shop", ANOTHER)
    world.run(20.0)
    between = names(world)
    assert len(between) > len(before)
    # of all that is about the same addresses the groups are others
    lasting = {
        name: resource for name, resource in before.items() if "_group" not in name and "flow_policy" not in name
    }
    assert {name: between[name] for name in lasting} == lasting and len(lasting) > len(before) / 2
    world.delete("shop", "aaa-first")
    world.run(20.0)
    assert names(world) == before


def test_each_is_found_by_its_name() -> None:
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(20.0)
    entries = world.resources("shop", "entries")
    assert len({entry.metadata["name"] for entry in entries}) == len(entries) > 50
    state = world.controllers["shop"].state
    for entry in entries:
        assert resource_view.resource(state, "entries", entry.metadata["name"], world.now_s) == entry


FIELDS = ("vrf", "policy_class", "forwarding_class", "destination", "address")
NUMBERS = st.sampled_from([0, 1, 0xFFFF_0A00_0001, 0x5F00 << 112])
MATCHES = st.builds(
    Match,
    field=st.sampled_from(FIELDS),
    value=NUMBERS,
    mask=st.none() | st.sampled_from([1, 0xFFFF]),
) | st.builds(Match, field=st.sampled_from(FIELDS), value=NUMBERS, prefix_length=st.sampled_from([0, 96, 128]))
ENTRIES = st.builds(
    owned_entry,
    table=st.sampled_from(["route", "steer"]),
    match=st.lists(MATCHES, max_size=3, unique_by=lambda match: match.field).map(
        lambda matches: tuple(sorted(matches, key=lambda match: match.field))
    ),
    priority=st.sampled_from([0, 1, 7]),
    action=st.just("deliver"),
    owner=st.just("nodes/se1"),
)


@given(ENTRIES, ENTRIES)
def test_names_differ_where_and_only_where_keys_do(first: OwnedEntry, other: OwnedEntry) -> None:
    same = (first.table, first.match, first.priority) == (other.table, other.match, other.priority)
    name, again = (entry_view.entry_name("se1", entry) for entry in (first, other))
    assert (name == again) == same
    assert not set(name) & set(" ?#%&\"'\\$*()[]{}|<>;`!")
    renamed = msgspec.structs.replace(
        first.replaced(action="encapsulate", params=(("sr_policy", 1),)), owner="intents/x"
    )
    assert entry_view.entry_name("se1", renamed) == name
