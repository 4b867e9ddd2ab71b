"""State -> whose traffic a forwarding class of a node is, and which way it goes."""

from collections.abc import Iterator
from typing import NamedTuple

from controller.fulfillment.numbering import Direction, Kind, id_key
from controller.fulfillment.plan_ids import stretches
from controller.model.entry import Match
from controller.model.stitch import Stitch
from controller.reconcile.state import State


class ForwardingClass(NamedTuple):
    owner: str
    """`intents/NAME`, `agreements/ID` or `networks/NAME`; empty: there is none of that number."""
    direction: Direction | None = None
    """FORWARD is from who asks to whom is asked; None: of a network, whose hosts all may begin."""
    enters: bool = False
    """What it counts has just come into the domain, or from a host; else it was counted before."""


NONE = ForwardingClass("")


def forwarding_class(state: State, node: str, number: int) -> ForwardingClass:
    standing = state.nodes.get(node)
    if standing is None or standing.state is None:
        return NONE
    entry = standing.state.entries.get("steer", (Match(field="forwarding_class", value=number),))
    if entry is None:
        return NONE
    first = id_key(node, Kind.FORWARDING_CLASS, "")
    for stitch in stitches_of(state, entry.owner):
        if number not in (value for key, value in stitch.ids.items() if key.startswith(first)):
            continue
        for stretch in stretches(stitch.plan):
            for way in {stretch.first, stretch.last}:
                key = stretch.forwarding_class(way)
                if key.startswith(first) and stitch.ids.get(key) == number:
                    enters = way == stretch.first and stretch.from_service is None
                    return ForwardingClass(entry.owner, stretch.direction, enters)
    return ForwardingClass(entry.owner)


def stitches_of(state: State, owner: str) -> Iterator[Stitch]:
    """Of an intent or an agreement."""
    kind, _, name = owner.partition("/")
    names: tuple[str, ...] = ()
    if kind == "intents" and (intent_record := state.intent_records.get(name)) is not None:
        names = tuple(name for each in intent_record.connection_statuses for name in (each.plan, each.coming))
    elif kind == "agreements":
        names = (state.agreements.get(name, ""),)
    for name in names:
        if (stitch := state.stitches.get(name)) is not None:
            yield stitch


def entering_nodes(state: State, owner: str) -> frozenset[str]:
    """Where what it carries is counted first."""
    return frozenset(
        stretch.head if stretch.crosses else stretch.tail
        for stitch in stitches_of(state, owner)
        for stretch in stretches(stitch.plan)
        if stretch.from_service is None
    )
