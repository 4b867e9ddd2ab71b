"""Nothing is begun that the nodes have no room for.

Whatever a step begins is counted before the step ends, together with all that is under way, as if all of it were
agreed, installed and in use. Who is let in so has its room for good: neither a neighbour's offer nor an intent of ours
pushes out what is there, whichever is agreed or installed first. What goes only makes entries fewer, so that of what a
step begins the first in order that fit are found by halving; the next of them is refused.
"""

from collections.abc import Collection, Sequence

import msgspec

from controller.fulfillment.acl import NoCapacity
from controller.fulfillment.assembly import Changes
from controller.fulfillment.capacity import Entries, Shortage, largest_part, port_part, shortage, table_shortage
from controller.fulfillment.realize import Needed, Realized, need, realize
from controller.fulfillment.wanted import Wanted
from controller.model.persistent import PersistentMap
from controller.model.requirements import Isolation, Unsatisfiable
from controller.model.stitch import IntentRecord, Stage, Stitch
from controller.model.told import Told, Why
from controller.reconcile.intents import turned_away
from controller.reconcile.negotiation.agreements import answer
from controller.reconcile.negotiation.withdrawals import refuse_upstream
from controller.reconcile.tables import ISOLATES, node_key
from controller.reconcile.transaction import Transaction
from controller.reconcile.wanted import RETRY_S

OWN_SHARE = 20
"""Percent of everything that is counted that all neighbours together leave to the intents of this domain, where its
policy does not allow one of them more."""
AGAIN_S = 1
"""Before what came behind the one that did not fit is tried again."""


def realized(transaction: Transaction) -> Realized:
    """What all nodes shall have."""
    made = realize(
        wanted(transaction, transaction.stitches.all),
        transaction.realized,
        transaction.unrealized,
        transaction.needed,
        transaction.made,
    )
    transaction.unrealized = Changes(set(), set())
    return made


def wanted(transaction: Transaction, stitches: PersistentMap[Stitch]) -> Wanted:
    return Wanted(
        inventory=transaction.inventory,
        fabric=transaction.fabric,
        descriptions=transaction.descriptions.all,
        ids=transaction.numbers.all,
        isolations=_isolations(transaction),
        stitches=stitches,
        sr_policies=transaction.sr_policies.all,
        tunnel_keys=transaction.tunnel_keys.all,
    )


def _isolations(transaction: Transaction) -> list[Isolation]:
    isolating = map(transaction.intent_records.all.__getitem__, transaction.intent_records.all.by(ISOLATES))
    return [isolation for intent_record in isolating if (isolation := _isolation(intent_record)) is not None]


def _counted(transaction: Transaction, without: Collection[str] = (), not_amended: Collection[str] = ()) -> Needed:
    """What all stitches but those `without` need in the end; those `not_amended` as they are now."""
    stitches = transaction.stitches.all
    for name in without:
        stitches = stitches.delete(name) if name in stitches else stitches
    for name in not_amended:
        stitches = stitches.set(name, msgspec.structs.replace(stitches[name], wanted=None))
    other = {*without, *not_amended}
    counted = need(
        wanted(transaction, stitches),
        transaction.needed,
        Changes(transaction.uncounted.stitches | other, transaction.uncounted.sr_policies),
        transaction.realized,
        transaction.made,
    )
    transaction.uncounted = Changes(other, set())
    return counted


def overfull(transaction: Transaction) -> str:
    """Why what was applied has no room on the nodes, whether or not any of what it begins is let in; empty: it has. A
    node that has become smaller than what it holds already refuses nothing else."""
    before = transaction.before.intent_records
    isolates = any(
        _isolation(transaction.intent_records.get(name)) not in (None, _isolation(before.get(name)))
        for name in transaction.intent_records.touched
    )
    if not transaction.inventory_changed and not isolates:
        return ""
    lacking = _shortage(
        transaction, transaction.inventory.nodes, _begun(transaction), transaction.before.needed.entries
    )
    return lacking.what.message if lacking is not None else ""


def _isolation(intent_record: IntentRecord | None) -> Isolation | None:
    isolation = intent_record.requirements.isolation if intent_record is not None else None
    if intent_record is None or isolation is None:
        return None
    return msgspec.structs.replace(isolation, until_s=intent_record.expires_s)


def admit(transaction: Transaction) -> None:
    """Lets in what this step has begun, as far as there is room, oldest first.

    What came behind the one that did not fit, and needs the same node, is put off, to be tried without that one.
    """
    begun = [stitch for stitch in _begun(transaction) if stitch.plan.name not in transaction.admitted]
    if not begun:
        return
    while begun and (short := _shortage(transaction, _nodes(begun))) is not None:
        fit, too_many = -1, len(begun)
        while too_many - fit > 1:
            middle = (fit + too_many) // 2
            lacking = _shortage(transaction, _nodes(begun), without=begun[middle:])
            if lacking is None:
                fit = middle
            else:
                too_many, short = middle, lacking
        first = max(fit, 0)
        _turn_away(transaction, begun[first], short.what, RETRY_S)
        behind = [member for member in begun[first + 1 :] if not short.node or short.node in member.plan_to_be.ends]
        for stitch in behind:
            _turn_away(transaction, stitch, short.what, AGAIN_S)
        begun = [stitch for stitch in begun if _is_still_begun(transaction, stitch)]
    alike: dict[tuple[str, frozenset[str]], list[Stitch]] = {}
    for stitch in begun:
        transaction.admitted.add(stitch.plan.name)
        if stitch.upstream is not None:
            alike.setdefault((stitch.upstream.peer, frozenset(stitch.plan_to_be.ends)), []).append(stitch)
    for (peer, _), stitches in alike.items():
        for stitch in stitches:
            if not (reason := _too_much(transaction, stitch, peer)):
                break  # with all of them it has no more than is for it
            _turn_away(transaction, stitch, Unsatisfiable(binding="share", message=reason), RETRY_S)
    for stitch in begun:
        if stitch.wanted is not None:
            answer(transaction, stitch.plan.name)


def _begun(transaction: Transaction) -> list[Stitch]:
    """What is new, or needs other than it did and nobody relies on yet; oldest first."""
    touched = (transaction.stitches.get(name) for name in transaction.stitches.touched)
    begun = [
        stitch
        for stitch in touched
        if stitch is not None and _has_begun(transaction.before.stitches.get(stitch.plan.name), stitch)
    ]
    return sorted(begun, key=lambda stitch: stitch.serial)


def _has_begun(before: Stitch | None, stitch: Stitch) -> bool:
    if before is None or (stitch.wanted is not None and stitch.wanted is not before.wanted):
        return True
    return stitch.stage == Stage.NEGOTIATING and _needs(before) != _needs(stitch)


def _is_still_begun(transaction: Transaction, begun: Stitch) -> bool:
    stitch = transaction.stitches.get(begun.plan.name)
    return stitch is not None and (begun.wanted is None or stitch.wanted is not None)


def _needs(stitch: Stitch) -> tuple[object, ...]:
    return stitch.plan, stitch.upstream is None, stitch.downstream is None


def _nodes(stitches: Sequence[Stitch]) -> set[str]:
    return {node for stitch in stitches for node in stitch.plan_to_be.ends}


def _shortage(
    transaction: Transaction, nodes: Collection[str], without: Sequence[Stitch] = (), before: Entries | None = None
) -> Shortage | None:
    """The first on any of these nodes, of what is more than `before`. `without` what these have begun."""
    not_amended = {stitch.plan.name for stitch in without if stitch.wanted is not None}
    left_out = {stitch.plan.name for stitch in without} - not_amended
    try:
        transaction.needed = _counted(transaction, left_out, not_amended)
    except NoCapacity as full:
        return table_shortage(full.table, full.node, full.needed, transaction.profiles.all)
    return shortage(transaction.needed.entries, nodes, transaction.profiles.all, before)


def _too_much(transaction: Transaction, stitch: Stitch, peer: str) -> str:
    """Why a neighbour, or all of them, would have more with it than is for them; empty: they would not."""
    nodes, stitches = stitch.plan_to_be.ends, transaction.stitches.all
    here = [stitches[name] for name in stitches.by(*map(node_key, nodes))]  # elsewhere nothing is asked for
    others = [member for member in here if member.upstream is not None]
    theirs = [member for member in others if member.upstream is not None and member.upstream.peer == peer]
    share = transaction.policy.max_share
    reason = _beyond(transaction, here, theirs, nodes, share, f"{peer} would have", "one neighbour")
    together = max(share, 100 - OWN_SHARE)
    return reason or _beyond(transaction, here, others, nodes, together, "all neighbours would have", "them together")


def _beyond(
    transaction: Transaction,
    here: Sequence[Stitch],
    theirs: Sequence[Stitch],
    nodes: Collection[str],
    max_share: int,
    who: str,
    whom: str,
) -> str:
    """Why what is carried for others takes more than it may, on these nodes and of what all have; empty: it does
    not."""
    profiles = transaction.profiles.all
    ports = port_part(here, theirs, nodes, profiles)
    part, what = max(
        ports, largest_part(transaction.needed.entries, nodes, {stitch.plan.owner for stitch in theirs}, profiles)
    )
    return f"{who} {part:.0%} of {what}; {max_share} % are for {whom}" if part * 100 > max_share else ""


def beyond_share(transaction: Transaction, agreed: Sequence[Stitch], max_share: int) -> dict[str, str]:
    """Of what is held for others, oldest first, the youngest that must go so that no neighbour has more than
    `max_share` percent: plan -> why."""
    ended: dict[str, str] = {}
    for peer in sorted({stitch.upstream.peer for stitch in agreed if stitch.upstream is not None}):
        theirs = [stitch for stitch in agreed if stitch.upstream is not None and stitch.upstream.peer == peer]
        while theirs:
            staying = [stitch for stitch in transaction.stitches.all.values() if stitch.plan.name not in ended]
            transaction.needed = _counted(transaction, ended)
            who = f"{peer} would have"
            reason = _beyond(transaction, staying, theirs, _nodes(theirs), max_share, who, "one neighbour")
            if not reason:
                break
            ended[theirs.pop().plan.name] = reason
    return ended


def _turn_away(transaction: Transaction, stitch: Stitch, short: Unsatisfiable, retry_after_s: int) -> None:
    """What it has said in this step is never sent."""
    is_new = transaction.before.stitches.get(stitch.plan.name) is None
    if stitch.downstream is not None and is_new and not stitch.plan.bundle:
        transaction.forget_messages(stitch.downstream.terms.id)
        stitch = msgspec.structs.replace(stitch, downstream=None)
        transaction.put_stitch(stitch)
    if stitch.upstream is not None:
        told = Told.SHARE if short.binding == "share" else Told.ROOM
        refuse_upstream(transaction, stitch, Why(told, f"{transaction.own} has no room for it ({short.binding})"))
    else:
        transaction.drop_stitch(stitch)
        turned_away(transaction, stitch, short, retry_after_s)
    transaction.log("no_room", "warning", owner=stitch.plan.owner, plan=stitch.plan.name, reason=short.message)
