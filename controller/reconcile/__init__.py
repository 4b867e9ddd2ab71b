"""The one place where the picture of the world changes: `step(state, event)` gives the next state and what to do.

    Apply, Delete, Renew ──▶ applying, removing ──▶ undertakings ──▶ place ──▶ dealings ──▶ offers
    LoadPolicy ──────▶ policing ──▶ what is no longer allowed ends
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
    PUT_BACK,
    Apply,
    Connect,
    Delete,
    Effect,
    EndAgreement,
    Event,
    LoadPolicy,
    Log,
    MessageReceived,
    MessageSent,
    NodeDescribed,
    NodeRejected,
    NodeSynced,
    NodeUnreachable,
    PeerMet,
    Persist,
    Record,
    Renew,
    Reply,
    Send,
    Tick,
)
from controller.model.keys import Keys
from controller.model.policy import Policy
from controller.model.told import Told, Why
from controller.reconcile import (
    admission,
    applying,
    carriers,
    consent,
    dealings,
    ending,
    messages,
    peers,
    policing,
    removing,
    rollout,
    tables,
)
from controller.reconcile.identifiers import NoNumber
from controller.reconcile.numbers import number_networks, number_plans
from controller.reconcile.rerouting import reroute, unsettle
from controller.reconcile.state import State, is_of_version_1, load
from controller.reconcile.turn import Turn
from controller.reconcile.undertakings import pursue_what_can_change

__all__ = ["State", "initial", "step", "step_all"]


def initial(records: Iterable[Record], own_domain: str, policy: Policy) -> tuple[State, tuple[Effect, ...]]:
    """The state as it was stored, and what to begin with. Raises ValueError for a record that cannot be read."""
    records = tuple(records)
    state = load(records, own_domain, policy)
    left_out = [Record(kind=one.kind, name=one.name, content=None) for one in records if is_of_version_1(one)]
    reason = "signed by a release before mandates; it is offered anew"
    forgotten = [Log(event="course_ended", fields={"plan": one.name, "reason": reason}) for one in left_out]
    awaiting: dict[str, dict[str, int]] = {
        name: {} for name, course in state.courses.items() if course.stage != Stage.NEGOTIATING
    }
    awaiting |= {f"intents/{name}": {} for name in state.undertakings}
    state = msgspec.structs.replace(
        state,
        fabric=fabric(state.inventory, state.descriptions, own_domain),
        awaiting=tables.awaiting(awaiting),
        restored=frozenset(awaiting),
    )
    starts = state.counters.get("start", 0) + 1
    state = msgspec.structs.replace(state, counters=state.counters.set("start", starts))
    begun = Record(kind="Counter", name="start", content=msgspec.json.encode(starts))
    connects = [Connect(node=node.name, agent=node.agent) for node in state.inventory.nodes.values()]
    sends = [Send(peer=one.peer, message_id=name, message=one.message) for name, one in state.outbox.items()]
    return state, (Persist(records=(begun, *left_out)), *forgotten, *connects, *sends)


def step(state: State, event: Event, now_s: float, keys: Keys) -> tuple[State, tuple[Effect, ...]]:
    """What `event` makes of `state`, and what is to be done about it, in order."""
    return step_all(state, (event,), now_s, keys)


def step_all(state: State, events: Iterable[Event], now_s: float, keys: Keys) -> tuple[State, tuple[Effect, ...]]:
    """The same of several that came together: messages of one peer, so that what follows from them is found once, and
    said together too."""
    turn = Turn(state, now_s, keys)
    if not state.realized.states:
        turn.fresh |= set(state.awaiting)  # the first step after a restart
        number_plans(turn)
        number_networks(turn)
        if turn.counters.get(PUT_BACK):
            turn.counters.drop(PUT_BACK)
            _begin_anew(turn)
    for event in events:
        turn = _take(turn, event)
    rollout.settle(turn)
    return turn.finish()


def _take(turn: Turn, event: Event) -> Turn:
    """The same one, unless nothing is to come of the event."""
    match event:
        case Apply():
            applying.apply(turn, event)
            if reason := _without_numbers(turn) or admission.overfull(turn):
                turn = Turn(turn.before, turn.now_s, turn.keys)
                turn.effects.append(Reply(request_id=event.request_id, conflict=f"there is no room for it: {reason}"))
        case Delete():
            removing.delete(turn, event)
            _inventory_changed(turn)
        case LoadPolicy():
            policing.load_policy(turn, event)
        case Renew():
            applying.extend(turn, event)
        case EndAgreement():
            ending.end_agreement(turn, event)
        case MessageReceived():
            messages.receive(turn, event.peer, event.message, event.objection)
        case MessageSent():
            peers.sent(turn, event)
        case PeerMet():
            peers.met(turn, event)
        case NodeDescribed():
            rollout.described(turn, event)
            if turn.descriptions.changed:
                turn.refresh_fabric()
                dealings.watch_ends(turn)
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
    return turn


def _begin_anew(turn: Turn) -> None:
    """What a backup says of agreements is long past: all of them end, and our own intents ask again."""
    for course in tuple(turn.courses.all.values()):
        dealings.lose(turn, course, Why(Told.LOST, "the controller begins anew from a backup"))


def _without_numbers(turn: Turn) -> str:
    """Follows the inventory; which numbers a node has too few of for it, if that is so."""
    try:
        _inventory_changed(turn)
    except NoNumber as error:
        return str(error)
    return ""


def _inventory_changed(turn: Turn) -> None:
    if turn.inventory_changed:
        number_networks(turn)
        turn.refresh_fabric()
        ending.end_unpinned(turn)
        consent.reconsider(turn)
        dealings.watch_ends(turn)
        if carriers.look_at_all(turn):
            reroute(turn)
        if turn.links.changed or turn.inventory_nodes.changed or turn.domains.changed:
            unsettle(turn)
        _look_again(turn)


def _look_again(turn: Turn) -> None:
    """What could not be done before may be possible now."""
    for name in turn.courses.all.by(tables.UNANSWERED):
        dealings.answer(turn, name)
    pursue_what_can_change(turn)


def _tick(turn: Turn) -> None:
    peers.say_again(turn)
    dealings.watch_leases(turn)
    if carriers.release(turn):
        reroute(turn)
    pursue_what_can_change(turn)
    rollout.audit(turn)
    turn.ticked_s = turn.now_s
