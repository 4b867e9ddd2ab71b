"""Numbers of the edges of own networks that have several; the ids of what leads there are made from them."""

from collections.abc import Mapping

from controller.fulfillment.fabric import edges
from controller.fulfillment.numbering import free_edge_numbers
from controller.model.inventory import Inventory
from controller.reconcile.turn import Turn

_LAST = "edge"
"""Counter with the number that was last given out."""
_PREFIX = "edge "


def numbered_edges(inventory: Inventory, own: str) -> tuple[tuple[str, str], ...]:
    """Network and node of each edge that needs a number."""
    return tuple(
        (name, node)
        for name, network in sorted(inventory.networks.items())
        if name.split("/")[0] == own and len(edges(network)) > 1
        for node in edges(network)
    )


def number_edges(turn: Turn) -> None:
    """An edge keeps its number as long as it is one, whatever others come and go."""
    wanted = dict.fromkeys(f"{_PREFIX}{name} {node}" for name, node in numbered_edges(turn.inventory, turn.own))
    for counter in [one for one in turn.counters.all if one.startswith(_PREFIX)]:
        if counter not in wanted:
            turn.counters.drop(counter)
    new = [counter for counter in wanted if turn.counters.get(counter) is None]
    taken = [number for counter, number in turn.counters.all.items() if counter.startswith(_PREFIX)]
    free = free_edge_numbers(len(new), taken, turn.counters.get(_LAST) or 0)
    for counter, number in zip(new, free, strict=False):  # apply has refused what would be too many
        turn.counters.put(counter, number)
        turn.counters.put(_LAST, number)


def edge_numbers(counters: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Of each network those of its edges."""
    found: dict[str, dict[str, int]] = {}
    for counter, number in counters.items():
        if counter.startswith(_PREFIX):
            _, network, node = counter.split(" ")
            found.setdefault(network, {})[node] = number
    return found
