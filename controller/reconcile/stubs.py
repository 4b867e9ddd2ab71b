"""Nodes and links of which a node does not confirm what it shall have: new paths do not pass them where there is
another way, as routers that have set the overload bit (RFC 3277) or say that they are stubs (RFC 6987).

    confirmed ── refused, or nothing said ──▶ doubted ── for DOUBT_S ──▶ stub ── confirmed for HOLD_S ──▶ confirmed

What is there stays: its traffic may flow all the same. What waits for a stub takes another way where there is one, and
comes back afterwards. A node that has answered something newer, or refused what is others', is not doubted for it.
"""

import math
from collections.abc import Collection

from controller.model.event import NodeRejected, NodeSynced
from controller.reconcile.restoration import pass_by, reroute
from controller.reconcile.transaction import Transaction

DOUBT_S = 10.0
"""The largest tables of a slow node are written in a few seconds."""
LATE_S = 2.0
"""Longer between two ticks, this controller was busy with something else, and what nodes have said meanwhile waits
behind the tick: that time counts for no doubt."""
HOLD_S = 30.0
"""A node that refuses and confirms by turns moves nothing but once."""


def expect(transaction: Transaction, node: str) -> None:
    """It is to have something else than it has confirmed."""
    _doubt(transaction, node, f"nodes/{node}")


def confirm(transaction: Transaction, event: NodeSynced, generation: int) -> None:
    """`generation`: that it is to have now."""
    if event.generation == generation:
        _keep(transaction, event.node, ())
    elif transaction.doubts.get(_key(event.node, f"nodes/{event.node}")) is not None:
        transaction.doubts.put(_key(event.node, f"nodes/{event.node}"), transaction.now_s)


def refuse(transaction: Transaction, event: NodeRejected) -> None:
    """What of it is the node's own, or a link's, is doubted; it has all else."""
    whole = f"nodes/{event.node}"
    parts = {whole} if event.refused is None else {each.part for each in event.refused}
    parts = {part for part in parts if part == whole or part.startswith("links/")}
    _keep(transaction, event.node, parts)
    for part in parts:
        _doubt(transaction, event.node, part)


def forget(transaction: Transaction, node: str) -> None:
    """It has left the inventory."""
    _keep(transaction, node, ())


def tick(transaction: Transaction) -> None:
    """What has been doubted for long is passed by; what has been confirmed for long is passed again."""
    now_s, stubs, awaiting = transaction.now_s, transaction.stubs, transaction.awaiting.all
    late_s = max(now_s - transaction.ticked_s - LATE_S, 0.0)
    for key, since_s in transaction.doubts.all.items():
        if late_s or since_s > now_s:  # the clock was set back
            transaction.doubts.put(key, min(since_s + late_s, now_s))
    doubted = {key: since_s for key, since_s in transaction.doubts.all.items() if now_s - since_s >= DOUBT_S}
    parts = {key.split(" ")[1] for key in doubted}
    fresh = parts - stubs.all.keys()
    for part in sorted(parts):
        stubs.put(part, math.inf)
    for part in sorted(fresh):
        transaction.log("passed_by", "warning", what=part, reason=f"not confirmed for {DOUBT_S:.0f} s")
    over = []
    for part, until_s in stubs.all.items():
        if part in parts:
            continue
        if until_s == math.inf or until_s > now_s + HOLD_S:  # now confirmed; or the clock was set back
            stubs.put(part, now_s + HOLD_S)
        elif until_s <= now_s:
            over.append(part)
    for part in over:
        stubs.drop(part)
        transaction.log("passed_again", what=part)
    if over:
        reroute(transaction)
    waits = {name for key in doubted if key.split(" ")[1] in fresh for name in awaiting.by(key.split(" ")[0])}
    pass_by(transaction, awaiting.in_order(waits - transaction.restored))


def _key(node: str, part: str) -> str:
    return f"{node} {part}"


def _doubt(transaction: Transaction, node: str, part: str) -> None:
    if transaction.doubts.get(_key(node, part)) is None:
        transaction.doubts.put(_key(node, part), transaction.now_s)


def _keep(transaction: Transaction, node: str, parts: Collection[str]) -> None:
    """Of the doubts about a node these alone."""
    kept = {_key(node, part) for part in parts}
    for key in [key for key in transaction.doubts.all if key.startswith(f"{node} ") and key not in kept]:
        transaction.doubts.drop(key)
