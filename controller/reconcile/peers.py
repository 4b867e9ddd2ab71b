"""Whether neighbouring controllers take what we say.

said ── taken ──▶ forgotten
  ├──── not reached ──▶ said again, at growing intervals
  └──── refused for good ──▶ kept, and said again when something has changed: the peer's Domain resource was
                             applied, its controller was started again or is another release
"""

import math
from collections.abc import Collection

import msgspec

from controller.model.course import Errand, HeldOff
from controller.model.event import MessageSent, PeerMet, Send
from controller.reconcile import comparing
from controller.reconcile.messages import refused
from controller.reconcile.state import Retry
from controller.reconcile.turn import Turn

MAX_RETRY_S = 15.0


def sent(turn: Turn, event: MessageSent) -> None:
    """An offer that is refused for good is as one that was answered so: other ways are tried."""
    outgoing = turn.outbox.get(event.message_id)
    if outgoing is None or outgoing.peer != event.peer:
        return
    if not event.reason:
        turn.outbox.drop(event.message_id)
        turn.retries.drop(event.message_id)
        return
    held = turn.retries.get(event.message_id)
    attempts = held.attempts + 1 if held is not None else 1
    wait_s = math.inf if event.final else min(MAX_RETRY_S, 0.5 * 2 ** min(attempts, 8))
    if event.final and outgoing.message.kind == "offer":
        turn.log("peer_refused", "warning", peer=event.peer, message=event.message_id, reason=event.reason)
        turn.outbox.drop(event.message_id)
        turn.retries.drop(event.message_id)
        _offer_refused(turn, event, outgoing.about)
        return
    retry = Retry(attempts=attempts, next_s=turn.now_s + wait_s, reason=event.reason, final=event.final)
    turn.retries.put(event.message_id, retry)
    if attempts == 1 or event.final:
        what = "peer_refused" if event.final else "peer_unreachable"
        turn.log(what, "warning", peer=event.peer, message=event.message_id, reason=event.reason)


def _offer_refused(turn: Turn, event: MessageSent, id: str) -> None:
    course = turn.courses.get(turn.agreements.get(id) or "")
    session = course.downstream if course is not None else None
    if course is None or session is None or session.terms.id != id or not session.standing.unanswered:
        return
    egress = course.plan.egress
    held_off = HeldOff(border=egress.border) if egress is not None else None
    refused(turn, course, session, event.reason, held_off)


def met(turn: Turn, event: PeerMet) -> None:
    known = turn.peers.get(event.peer)
    turn.peers.put(event.peer, event)
    if not event.refusal:
        comparing.tell(turn, event.peer)
    if known is not None and known.greeting == event.greeting:
        return
    if event.refusal:
        turn.log("peer_refused", "warning", peer=event.peer, reason=event.refusal)
    ask_again(turn, event.peer)


def ask_again(turn: Turn, peer: str, *, everything: bool = False) -> None:
    """Something has changed about it: what it refused for good may be taken now. `everything`: also what it has ended,
    or refused for some time."""
    borders = {link.name for link in turn.links.all.values() if link.domain == peer}
    for name, undertaking in tuple(turn.undertakings.all.items()):
        errands = tuple(_hopeful(errand, borders, everything) for errand in undertaking.errands)
        turn.undertakings.put(name, msgspec.structs.replace(undertaking, errands=errands))
    for name, retry in tuple(turn.retries.all.items()):
        outgoing = turn.outbox.get(name)
        if retry.final and outgoing is not None and outgoing.peer == peer:
            turn.retries.put(name, msgspec.structs.replace(retry, next_s=turn.now_s, final=False))
            _say_due(turn, name)


def _hopeful(errand: Errand, borders: Collection[str], everything: bool) -> Errand:
    left = tuple(one for one in errand.held_off if one.border not in borders or (one.until_s and not everything))
    return errand if left == errand.held_off else msgspec.structs.replace(errand, held_off=left, retry_s=0)


def say_again(turn: Turn) -> None:
    """What is due."""
    for name in tuple(turn.retries.all) if turn.clock_set_back else turn.retries.ready(turn.now_s):
        _say_due(turn, name)


def _say_due(turn: Turn, name: str) -> None:
    retry, outgoing = turn.retries.get(name), turn.outbox.get(name)
    if retry is None or outgoing is None:
        return
    clock_set_back = turn.now_s + MAX_RETRY_S < retry.next_s < math.inf
    if retry.next_s <= turn.now_s or clock_set_back:
        turn.retries.put(name, msgspec.structs.replace(retry, next_s=math.inf))
        turn.effects.append(Send(peer=outgoing.peer, message_id=name, message=outgoing.message))
