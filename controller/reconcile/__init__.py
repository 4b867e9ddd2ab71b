"""The one place where the picture of the world changes: `step(state, event)` gives the next state and what to do.

    Apply, Delete, Renew ──▶ applying, removing ──▶ undertakings ──▶ place ──▶ dealings ──▶ offers
    MessageReceived ─▶ messages ──▶ place, dealings ──▶ answers                   } ──▶ rollout ──▶ SyncNode
    NodeDescribed, NodeSynced, ... ──▶ rollout ──▶ the next stage of courses      }
    Tick ──▶ leases, renewals, retries, audits

What a step begins passes `admission` before any of it is sent: it is refused where the nodes have no room for it.

Whatever is stored is in the first effect, so that it is durable before anything else of the step is done.
"""

from collections.abc import Iterable
from typing import assert_never

import msgspec

from controller.fulfillment.fabric import fabric
from controller.model.course import Stage
from controller.model.event import (
    Apply,
    Connect,
    Delete,
    Effect,
    Event,
    MessageReceived,
    MessageSent,
    NodeDescribed,
    NodeRejected,
    NodeSynced,
    NodeUnreachable,
    Record,
    Renew,
    Reply,
    Send,
    Tick,
)
from controller.model.keys import Keys
from controller.model.policy import Policy
from controller.reconcile import admission, applying, carriers, consent, dealings, messages, removing, rollout
from controller.reconcile.edges import number_edges
from controller.reconcile.rerouting import reroute, unsettle
from controller.reconcile.state import Retry, State, load
from controller.reconcile.turn import Turn
from controller.reconcile.undertakings import pursue

__all__ = ["State", "initial", "step"]

MAX_RETRY_S = 15.0


def initial(records: Iterable[Record], own_domain: str, policy: Policy) -> tuple[State, tuple[Effect, ...]]:
    """The state as it was stored, and what to begin with. Raises ValueError for a record that cannot be read."""
    state = load(records, own_domain, policy)
    awaiting: dict[str, dict[str, int]] = {
        name: {} for name, course in state.courses.items() if course.stage != Stage.NEGOTIATING
    }
    awaiting |= {f"intents/{name}": {} for name in state.undertakings}
    state = msgspec.structs.replace(
        state,
        fabric=fabric(state.inventory, state.descriptions, own_domain),
        awaiting=awaiting,
        restored=frozenset(awaiting),
    )
    connects = [Connect(node=node.name, agent=node.agent) for node in state.inventory.nodes.values()]
    sends = [Send(peer=one.peer, message_id=name, message=one.message) for name, one in state.outbox.items()]
    return state, (*connects, *sends)


def step(state: State, event: Event, now_s: float, keys: Keys) -> tuple[State, tuple[Effect, ...]]:
    """What `event` makes of `state`, and what is to be done about it, in order."""
    turn = Turn(state, now_s, keys)
    if not state.realized.states:
        turn.fresh |= set(state.awaiting)  # the first step after a restart
        number_edges(turn)
    match event:
        case Apply():
            applying.apply(turn, event)
            _inventory_changed(turn)
            if reason := admission.overfull(turn):
                turn = Turn(state, now_s, keys)
                turn.effects.append(Reply(request_id=event.request_id, conflict=f"there is no room for it: {reason}"))
        case Delete():
            removing.delete(turn, event)
            _inventory_changed(turn)
        case Renew():
            applying.extend(turn, event)
        case MessageReceived():
            messages.receive(turn, event.peer, event.message, event.objection)
        case MessageSent():
            _sent(turn, event)
        case NodeDescribed():
            rollout.described(turn, event)
            if turn.descriptions.changed:
                turn.refresh_fabric()
            rerouted = carriers.told(turn, event.node)
            if rerouted:
                reroute(turn)
            if turn.descriptions.changed or rerouted:
                _look_again(turn)
        case NodeUnreachable():
            rollout.unreachable(turn, event)
        case NodeSynced():
            rollout.synced(turn, event)
        case NodeRejected():
            rollout.rejected(turn, event)
        case Tick():
            _tick(turn)
        case _:
            assert_never(event)
    rollout.settle(turn)
    return turn.finish()


def _inventory_changed(turn: Turn) -> None:
    if turn.inventory_changed:
        number_edges(turn)
        turn.refresh_fabric()
        consent.reconsider(turn)
        if carriers.look_at_all(turn):
            reroute(turn)
        if turn.links.changed or turn.inventory_nodes.changed or turn.domains.changed:
            unsettle(turn)
        _look_again(turn)


def _look_again(turn: Turn) -> None:
    """What could not be done before may be possible now."""
    for course in tuple(turn.courses.all.values()):
        if course.upstream is not None:
            dealings.answer(turn, course.plan.name)
    for name in tuple(turn.undertakings.all):
        pursue(turn, name)


def _sent(turn: Turn, event: MessageSent) -> None:
    outgoing = turn.outbox.get(event.message_id)
    if outgoing is None or outgoing.peer != event.peer:
        return
    if not event.reason:
        turn.outbox.drop(event.message_id)
        turn.retries.drop(event.message_id)
        return
    held = turn.retries.get(event.message_id)
    attempts = held.attempts + 1 if held is not None else 1
    wait_s = min(MAX_RETRY_S, 0.5 * 2 ** min(attempts, 8))
    turn.retries.put(event.message_id, Retry(attempts=attempts, next_s=turn.now_s + wait_s, reason=event.reason))
    if attempts == 1:
        turn.log("peer_unreachable", "warning", peer=event.peer, reason=event.reason)


def _tick(turn: Turn) -> None:
    for name, retry in turn.retries.all.items():
        outgoing = turn.outbox.get(name)
        clock_set_back = turn.now_s + MAX_RETRY_S < retry.next_s < float("inf")
        if (retry.next_s <= turn.now_s or clock_set_back) and outgoing is not None:
            turn.retries.put(name, msgspec.structs.replace(retry, next_s=float("inf")))
            turn.effects.append(Send(peer=outgoing.peer, message_id=name, message=outgoing.message))
    dealings.watch_leases(turn)
    if carriers.release(turn):
        reroute(turn)
    for name in tuple(turn.undertakings.all):
        pursue(turn, name)
    rollout.audit(turn)
