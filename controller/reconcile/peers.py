"""Whether neighbouring controllers take what we say.

said ── taken ──▶ forgotten
  ├──── not reached ──▶ said again, at growing intervals
  └──── refused for good ──▶ kept, and said again when something has changed: the peer's Domain resource was
                             applied, its controller was started again or is another release
"""

import math
from collections.abc import Collection

import msgspec

from controller.model.event import MessageSent, PeerMet, Send
from controller.model.stitch import ConnectionStatus, HeldOff
from controller.reconcile import tunnel_keys
from controller.reconcile.advertising import telling
from controller.reconcile.negotiation import comparing
from controller.reconcile.negotiation.messages import refused
from controller.reconcile.state import Retry
from controller.reconcile.transaction import Transaction

MAX_RETRY_S = 15.0


def sent(transaction: Transaction, event: MessageSent) -> None:
    """An offer that is refused for good is as one that was answered so: other ways are tried."""
    if event.message_id.startswith(telling.PREFIX):
        telling.sent(transaction, event)
        return
    outgoing = transaction.outbox.get(event.message_id)
    if outgoing is None or outgoing.peer != event.peer:
        return
    if not event.reason:
        transaction.outbox.drop(event.message_id)
        transaction.retries.drop(event.message_id)
        return
    earlier = transaction.retries.get(event.message_id)
    attempts = earlier.attempts + 1 if earlier is not None else 1
    wait_s = math.inf if event.final else min(MAX_RETRY_S, 0.5 * 2 ** min(attempts, 8))
    if event.final and outgoing.message.kind == "offer":
        transaction.log("peer_refused", "warning", peer=event.peer, message=event.message_id, reason=event.reason)
        transaction.outbox.drop(event.message_id)
        transaction.retries.drop(event.message_id)
        _offer_refused(transaction, event, outgoing.about)
        return
    retry = Retry(attempts=attempts, next_s=transaction.now_s + wait_s, reason=event.reason, final=event.final)
    transaction.retries.put(event.message_id, retry)
    if attempts == 1 or event.final:
        what = "peer_refused" if event.final else "peer_unreachable"
        transaction.log(what, "warning", peer=event.peer, message=event.message_id, reason=event.reason)


def _offer_refused(transaction: Transaction, event: MessageSent, id: str) -> None:
    stitch = transaction.stitches.get(transaction.agreements.get(id) or "")
    session = stitch.downstream if stitch is not None else None
    if stitch is None or session is None or session.terms.id != id or not session.standing.unanswered:
        return
    egress = stitch.plan.egress
    held_off = HeldOff(border=egress.border) if egress is not None else None
    refused(transaction, stitch, session, event.reason, held_off)


def met(transaction: Transaction, event: PeerMet) -> None:
    known = transaction.peers.get(event.peer)
    transaction.peers.put(event.peer, event)
    if not event.refusal:
        comparing.tell(transaction, event.peer)
    telling.met(transaction, event)
    tunnel_keys.met(transaction, event.peer)
    if known is not None and known.greeting == event.greeting:
        return
    if event.refusal:
        transaction.log("peer_refused", "warning", peer=event.peer, reason=event.refusal)
    ask_again(transaction, event.peer)


def ask_again(transaction: Transaction, peer: str, *, everything: bool = False) -> None:
    """Something has changed about it: what it refused for good may be taken now. `everything`: also what it has ended,
    or refused for some time."""
    borders = {link.name for link in transaction.links.all.values() if link.domain == peer}
    for name, intent_record in tuple(transaction.intent_records.all.items()):
        connection_statuses = tuple(
            _hopeful(connection_status, borders, everything) for connection_status in intent_record.connection_statuses
        )
        transaction.intent_records.put(
            name, msgspec.structs.replace(intent_record, connection_statuses=connection_statuses)
        )
    for name, retry in tuple(transaction.retries.all.items()):
        outgoing = transaction.outbox.get(name)
        if retry.final and outgoing is not None and outgoing.peer == peer:
            transaction.retries.put(name, msgspec.structs.replace(retry, next_s=transaction.now_s, final=False))
            _say_due(transaction, name)


def _hopeful(connection_status: ConnectionStatus, borders: Collection[str], everything: bool) -> ConnectionStatus:
    left = tuple(
        held_off
        for held_off in connection_status.held_off
        if held_off.border not in borders or (held_off.until_s and not everything)
    )
    return (
        connection_status
        if left == connection_status.held_off
        else msgspec.structs.replace(connection_status, held_off=left, retry_s=0)
    )


def say_again(transaction: Transaction) -> None:
    """What is due."""
    for name in (
        tuple(transaction.retries.all) if transaction.clock_set_back else transaction.retries.ready(transaction.now_s)
    ):
        _say_due(transaction, name)


def _say_due(transaction: Transaction, name: str) -> None:
    retry, outgoing = transaction.retries.get(name), transaction.outbox.get(name)
    if retry is None or outgoing is None:
        return
    clock_set_back = transaction.now_s + MAX_RETRY_S < retry.next_s < math.inf
    if retry.next_s <= transaction.now_s or clock_set_back:
        transaction.retries.put(name, msgspec.structs.replace(retry, next_s=math.inf))
        transaction.effects.append(Send(peer=outgoing.peer, message_id=name, message=outgoing.message))
