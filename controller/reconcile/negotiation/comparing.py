"""What two neighbours hold of each other, compared on each new connection: what only one of them holds ends on both.

```
 we meet ──▶ our Holdings ──▶ the peer compares them with its own, and says its own where they differ
 its Holdings ──▶ agreed, and the peer has it not, or another ──▶ ends here, and our intent asks again at once
                  offered, and the peer has it not ────────────▶ the same offer again
                  the peer has an older acceptance of ours ────▶ the acceptance again
```

So an empty store, or one that was put back from a copy, leaves nothing that one side takes for agreed.

Messages of one peer come in order. What is agreed on our side was held by the peer when we heard so; where its
Holdings, which come later, have it no more, it has lost it, or has ended it and says so next.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from controller.fulfillment.negotiate import sealed
from controller.model.agreement import HOLDINGS, MAX_HOLDINGS, Holding, Holdings
from controller.model.event import Send
from controller.model.stitch import Session, Stitch
from controller.model.told import Told, Why
from controller.reconcile.bundles import members
from controller.reconcile.negotiation.agreements import offer_again, repeat_answer
from controller.reconcile.negotiation.withdrawals import lose
from controller.reconcile.tables import peer_key
from controller.reconcile.transaction import Transaction, understands

SERIAL_MOVED_MAX = 100_000
"""The word of one peer moves our numbers no further, however often it says so."""


def tell(transaction: Transaction, peer: str, *, is_answer: bool = False) -> None:
    """To a peer that understands it."""
    if not understands(transaction, peer, HOLDINGS):
        return
    holdings = tuple(_holding(session) for _, session in _sessions(transaction, peer))
    said = Holdings(agreements=holdings[:MAX_HOLDINGS], newest=_newest(transaction, peer), is_answer=is_answer)
    envelope = sealed(said, transaction.keys)
    transaction.effects.append(
        Send(peer=peer, message_id=f"holdings:{envelope.digest}:{transaction.now_s}", message=envelope)
    )


def compare(transaction: Transaction, peer: str, theirs: Holdings) -> None:
    """With what `peer`, who has signed this, holds."""
    serial, moved = transaction.counters.get("serial") or 0, transaction.counters.get(f"moved by {peer}") or 0
    further = min(theirs.newest - serial, SERIAL_MOVED_MAX - moved)
    if further > 0:  # our store is a copy from before
        transaction.counters.put("serial", serial + further)
        transaction.counters.put(f"moved by {peer}", moved + further)
        _ask_again(transaction)
    known = {agreement.id: agreement for agreement in theirs.agreements}
    ours = set()
    differs = False
    for stitch, session in tuple(_sessions(transaction, peer)):
        ours.add(session.terms.id)
        holding = known.get(session.terms.id)
        if _is_same(holding, session):
            if holding is not None and not session.offeror and holding.acceptance != _holding(session).acceptance:
                repeat_answer(transaction, session)
            continue
        if len(theirs.agreements) >= MAX_HOLDINGS or all(
            sharing.stage.leaving for sharing in members(transaction, stitch)
        ):
            continue  # not all are told; it is about to end
        if session.offeror and session.agreement is None:
            offer_again(transaction, session)
            continue
        differs = True
        transaction.log("agreement_differs", "warning", agreement=session.terms.id, peer=peer)
        what = "does not hold it" if holding is None else "holds another revision of it"
        why = Why(Told.LOST, f"{peer} {what}: its store, or ours, is another than before")
        for member in members(transaction, stitch):
            if transaction.stitches.get(member.plan.name) is not None:
                lose(transaction, member, why, at_once=True)
    if (differs or known.keys() - ours) and not theirs.is_answer:
        tell(transaction, peer, is_answer=True)


def _ask_again(transaction: Transaction) -> None:
    """What was refused, since its number had been given out before."""
    for name, intent_record in tuple(transaction.intent_records.all.items()):
        connection_statuses = tuple(
            replace(connection_status, retry_s=0) if connection_status.refusal else connection_status
            for connection_status in intent_record.connection_statuses
        )
        transaction.intent_records.put(name, replace(intent_record, connection_statuses=connection_statuses))


def _sessions(transaction: Transaction, peer: str) -> Iterator[tuple[Stitch, Session]]:
    """Each agreement once."""
    for stitch in map(transaction.stitches.all.__getitem__, transaction.stitches.all.by(peer_key(peer))):
        for session in (stitch.upstream, stitch.downstream):
            if (
                session is not None
                and session.peer == peer
                and transaction.agreements.get(session.terms.id) == stitch.plan.name
            ):
                yield stitch, session


def _holding(session: Session) -> Holding:
    agreed = session.agreement
    offers = dict.fromkeys((*((agreed.offer.digest,) if agreed is not None else ()), session.offer.digest))
    acceptance = agreed.acceptance.digest if agreed is not None else ""
    return Holding(id=session.terms.id, offers=tuple(offers), acceptance=acceptance)


def _is_same(holding: Holding | None, session: Session) -> bool:
    """One side may be a step ahead of the other."""
    return holding is not None and not set(holding.offers).isdisjoint(_holding(session).offers)


def _newest(transaction: Transaction, peer: str) -> int:
    serials = (
        name.rpartition(":")
        for name in (*transaction.agreements.all, *transaction.closed.all)
        if name.startswith(f"{peer}:")
    )
    return max((int(serial) for _, _, serial in serials if serial.isdecimal() and len(serial) < 13), default=0)
