"""Plans, agreements and inventory -> all that each node shall have, and how much of its tables that takes.

Of what is made once only what a change concerns is made anew (`assembly`), so both say what is different from before.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from controller.fulfillment.assembly import Assembly, Beside, Changes, Made, assemble
from controller.fulfillment.capacity import Counts, in_the_end
from controller.fulfillment.wanted import Wanted
from controller.model.entry import OwnedEntry
from controller.model.node_entries import Changed, NodeState


class Realized(msgspec.Struct, frozen=True, kw_only=True):
    states: dict[str, NodeState] = msgspec.field(default_factory=dict)
    changed: dict[str, Changed] = msgspec.field(default_factory=dict)
    """Of the nodes whose entries are other than before."""
    hosts_changed: frozenset[str] = frozenset()
    """Nodes that shall have other gateways, tunnels or probes than before."""
    assembly: Assembly | None = None


class Needed(msgspec.Struct, frozen=True, kw_only=True):
    entries: Mapping[str, Counts] = msgspec.field(default_factory=dict)
    """Of each node."""
    assembly: Assembly | None = None


def realize(
    wanted: Wanted,
    before: Realized,
    changed: Changes | None = None,
    needed: Needed | None = None,
    made: Made | None = None,
) -> Realized:
    """`changed`: since `before` was made; None: nobody knows. `needed`: what is counted, of which most is the same.
    `made`: in this step. Raises NoCapacity."""
    beside = Beside(needed.assembly if needed is not None else None, made if made is not None else Made({}, {}))
    assembly = assemble(wanted, before.assembly, changed, beside)
    nodes, known = wanted.inventory.nodes, before.states
    states = (
        dict(known) if known.keys() == nodes.keys() else {node: known.get(node, NodeState()) for node in sorted(nodes)}
    )
    differences: dict[str, Changed] = {}
    for node in {*assembly.gone, *assembly.new} & states.keys():
        gone, new = assembly.gone.get(node, ()), assembly.new.get(node, ())
        difference = states[node].entries.changed(
            itertools.chain.from_iterable(gone), itertools.chain.from_iterable(new)
        )
        states[node] = NodeState(entries=difference.entries, host=states[node].host)
        if difference.put or difference.gone:
            differences[node] = difference
    hosts_changed: set[str] = set()
    if before.assembly is None or assembly.hosts is not before.assembly.hosts:
        for node, host in assembly.hosts.items():
            if host is not states[node].host:
                states[node] = NodeState(entries=states[node].entries, host=host)
                hosts_changed.add(node)
    return Realized(
        states=states, changed=differences, hosts_changed=frozenset(hosts_changed), assembly=_settled(assembly)
    )


def need(
    wanted: Wanted,
    before: Needed,
    changed: Changes | None = None,
    realized: Realized | None = None,
    made: Made | None = None,
) -> Needed:
    """What `realize` would make in the end, only counted. `changed`, and what it raises: as there. `realized`: what is
    installed, where counting begins."""
    installed = realized.assembly if realized is not None else None
    if before.assembly is None and realized is not None and installed is not None:
        before = Needed(
            entries={
                node: Counts().changed((), [_count(state.entries.asked)]) for node, state in realized.states.items()
            },
            assembly=installed,
        )
        changed = Changes(stitches={*wanted.stitches, *installed.wanted.stitches}, sr_policies={*wanted.sr_policies})
    beside = Beside(installed, made if made is not None else Made({}, {}))
    assembly = assemble(msgspec.structs.replace(wanted, as_if=in_the_end), before.assembly, changed, beside)
    nodes, known = wanted.inventory.nodes, before.entries
    entries = dict(known) if known.keys() == nodes.keys() else {node: known.get(node, Counts()) for node in nodes}
    for node in (assembly.gone.keys() | assembly.new.keys()) & entries.keys():
        gone, new = (map(_count, parts.get(node, ())) for parts in (assembly.gone, assembly.new))
        entries[node] = entries[node].changed(gone, new)
    return Needed(entries=entries, assembly=_settled(assembly))


def _settled(assembly: Assembly) -> Assembly:
    return msgspec.structs.replace(assembly, gone={}, new={})


def _count(entries: Iterable[OwnedEntry]) -> Counter[tuple[str, str]]:
    """By table and owner."""
    return Counter((entry.table, entry.owner) for entry in entries)
