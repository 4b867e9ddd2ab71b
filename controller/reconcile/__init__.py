"""The one place where the picture of the world changes: `step(state, event)` gives the next state and what to do.

    Apply, Delete, Renew ──▶ changes, removing ──▶ intents ──▶ place ──▶ negotiation ──▶ offers
    LoadPolicy ──────▶ policing ──▶ what is no longer allowed ends
    MessageReceived ─▶ negotiation ──▶ place ──▶ answers                           } ──▶ rollout ──▶ SyncNode
    NodeDescribed, NodeSynced, ... ──▶ rollout ──▶ the next stage of stitches      }
    Found ───────────▶ incidents ──▶ remediation ──▶ what is proposed; Approve, where the mode is auto
    Decide ──────────▶ remediation ──▶ changes, draining
    Tick ──▶ leases, renewals, retries, audits

What a step begins passes `capacity_check` before any of it is sent: it is refused where the nodes have no room for it.

Whatever is stored is in the first effect, so that it is durable before anything else of the step is done.
"""

from collections.abc import Iterable
from typing import assert_never

import msgspec

from controller.fulfillment.fabric import fabric
from controller.model.event import (
    PUT_BACK,
    Apply,
    Connect,
    Decide,
    Delete,
    Discovered,
    Effect,
    EndAgreement,
    Event,
    Found,
    LoadPolicy,
    Log,
    Measured,
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
    SetDrain,
    Tick,
)
from controller.model.keys import Keys
from controller.model.policy import Policy
from controller.model.stitch import Stage
from controller.model.told import Told, Why
from controller.reconcile import (
    capacity_check,
    changes,
    delays,
    draining,
    facts,
    incidents,
    link_state,
    peer_admission,
    peers,
    policing,
    remediation,
    removing,
    rollout,
    service_state,
    stubs,
    tables,
    translation_pool,
    tunnel_keys,
)
from controller.reconcile.advertising import choosing, hearing, telling
from controller.reconcile.identifiers import NoNumber
from controller.reconcile.intents import pursue_at_services, pursue_what_can_change
from controller.reconcile.negotiation import agreements, ending, messages, ways, withdrawals
from controller.reconcile.numbers import number_networks, number_plans
from controller.reconcile.restoration import await_new_links, follow, follow_measured, reroute, unsettle
from controller.reconcile.state import SR_POLICIES, State, is_of_version_1, load
from controller.reconcile.transaction import Transaction

__all__ = ["State", "initial", "step", "step_all"]


def initial(records: Iterable[Record], own_domain: str, policy: Policy) -> tuple[State, tuple[Effect, ...]]:
    """The state as it was stored, and what to begin with. Raises ValueError for a record that cannot be read."""
    records = tuple(records)
    state = load(records, own_domain, policy)
    left_out = [
        Record(kind=record.kind, name=record.name, content=None) for record in records if is_of_version_1(record)
    ]
    reason = "signed by a release before mandates; it is offered anew"
    forgotten = [Log(event="course_ended", fields={"plan": record.name, "reason": reason}) for record in left_out]
    awaiting: dict[str, dict[str, int]] = {
        name: {} for name, stitch in state.stitches.items() if stitch.stage != Stage.NEGOTIATING
    }
    awaiting |= {f"intents/{name}": {} for name in state.intent_records}
    awaiting |= {f"{SR_POLICIES}{name}": {} for name, policy in state.sr_policies.items() if policy.unconfirmed}
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
    sends = [
        Send(peer=outgoing.peer, message_id=name, message=outgoing.message) for name, outgoing in state.outbox.items()
    ]
    stored = {record.name for record in records if record.kind == "SrPolicy" and record.content is not None}
    inside = [
        Record(kind="SrPolicy", name=name, content=msgspec.json.encode(policy))
        for name, policy in state.sr_policies.items()
        if name not in stored
    ]
    renamed = [Record(kind="SrPolicy", name=name, content=None) for name in sorted(stored - state.sr_policies.keys())]
    return state, (Persist(records=(begun, *left_out, *inside, *renamed)), *forgotten, *connects, *sends)


def step(state: State, event: Event, now_s: float, keys: Keys) -> tuple[State, tuple[Effect, ...]]:
    """What `event` makes of `state`, and what is to be done about it, in order."""
    return step_all(state, (event,), now_s, keys)


def step_all(state: State, events: Iterable[Event], now_s: float, keys: Keys) -> tuple[State, tuple[Effect, ...]]:
    """The same of several that came together: messages of one peer, so that what follows from them is found once, and
    said together too."""
    transaction = Transaction(state, now_s, keys)
    if not state.realized.states:
        transaction.fresh |= set(state.awaiting)  # the first step after a restart
        number_plans(transaction)
        number_networks(transaction)
        if transaction.counters.get(PUT_BACK):
            transaction.counters.drop(PUT_BACK)
            _begin_anew(transaction)
    for event in events:
        transaction = _take(transaction, event)
    rollout.note_lost(transaction)  # before anything is tried anew: what it was told stands
    if choosing.settle(transaction):
        _inventory_changed(transaction)
    elif transaction.reaches.changed:
        _look_again(transaction)
    if transaction.reaches.changed:
        unsettle(transaction)
        ways.tell(transaction)
        pursue_what_can_change(transaction)
    rollout.settle(transaction)
    translation_pool.settle(transaction)
    return transaction.finish()


def _take(transaction: Transaction, event: Event) -> Transaction:
    """The same one, unless nothing is to come of the event."""
    match event:
        case Apply() | Decide():
            if isinstance(event, Apply):
                changes.apply(transaction, event)
            else:
                remediation.decide(transaction, event)
            if reason := _without_numbers(transaction) or capacity_check.overfull(transaction):
                transaction = Transaction(transaction.before, transaction.now_s, transaction.keys)
                transaction.effects.append(
                    Reply(request_id=event.request_id, conflict=f"there is no room for it: {reason}")
                )
        case Found():
            incidents.found(transaction, event.findings)
        case Delete():
            removing.delete(transaction, event)
            _inventory_changed(transaction)
        case LoadPolicy():
            policing.load_policy(transaction, event)
        case Renew():
            changes.extend(transaction, event)
        case SetDrain():
            draining.set_drain(transaction, event)
        case EndAgreement():
            ending.end_agreement(transaction, event)
        case MessageReceived():
            messages.receive(transaction, event.peer, event.message, event.objection)
        case MessageSent():
            peers.sent(transaction, event)
        case PeerMet():
            peers.met(transaction, event)
        case NodeDescribed():
            rollout.described(transaction, event)
            if transaction.descriptions.changed:
                transaction.refresh_fabric()
                agreements.watch_ends(transaction)
            tunnel_keys.follow(transaction, tunnel_keys.at(transaction, event.node))
            rerouted = link_state.told(transaction, event.node)
            if rerouted:
                reroute(transaction)
            if transaction.descriptions.changed or rerouted:
                _look_again(transaction)
            if service_state.look(transaction):
                pursue_at_services(transaction)
        case NodeUnreachable():
            rollout.unreachable(transaction, event)
            _learn(transaction, facts.at(transaction, event.node))
        case Discovered():
            rollout.discovered(transaction, event)
        case Measured():
            rollout.measured(transaction, event)
            _learn(transaction, facts.at(transaction, event.node))
            _learn_delays(transaction, facts.links_at(transaction, event.node))
        case NodeSynced():
            rollout.synced(transaction, event)
        case NodeRejected():
            rollout.rejected(transaction, event)
        case Tick():
            _tick(transaction)
        case _:
            assert_never(event)
    return transaction


def _learn(transaction: Transaction, links: Iterable[str]) -> None:
    """What no way could hold may have one, where more or something else is known of links."""
    if facts.learn(transaction, links):
        unsettle(transaction)
        _look_again(transaction)


def _learn_delays(transaction: Transaction, links: Iterable[str]) -> None:
    if delays.learn(transaction, links):
        follow_measured(transaction)


def _begin_anew(transaction: Transaction) -> None:
    """What a backup says of agreements is long past: all of them end, and our own intents ask again."""
    for stitch in tuple(transaction.stitches.all.values()):
        withdrawals.lose(transaction, stitch, Why(Told.LOST, "the controller begins anew from a backup"))


def _without_numbers(transaction: Transaction) -> str:
    """Follows the inventory; which numbers a node has too few of for it, if that is so."""
    try:
        _inventory_changed(transaction)
    except NoNumber as error:
        return str(error)
    return ""


def _inventory_changed(transaction: Transaction) -> None:
    if transaction.inventory_changed:
        facts.learn(transaction, transaction.links.touched)
        delays.learn(transaction, [name for name in transaction.links.touched if name in transaction.link_delays.all])
        number_networks(transaction)
        transaction.refresh_fabric()
        ending.end_unpinned(transaction)
        peer_admission.reconsider(transaction)
        agreements.watch_ends(transaction)
        if link_state.look_at_all(transaction):
            reroute(transaction)
        service_state.look(transaction)
        if transaction.links.changed:
            await_new_links(transaction)
            follow(transaction)
        if transaction.links.changed or transaction.inventory_nodes.changed or transaction.domains.changed:
            unsettle(transaction)
            ways.tell(transaction)
        _look_again(transaction)


def _look_again(transaction: Transaction) -> None:
    """What could not be done before may be possible now."""
    for name in transaction.stitches.all.by(tables.UNANSWERED):
        agreements.answer(transaction, name)
    pursue_what_can_change(transaction)


def _tick(transaction: Transaction) -> None:
    peers.say_again(transaction)
    tunnel_keys.follow(transaction)
    hearing.expire(transaction)
    telling.tick(transaction)
    transaction.doubted |= {name.split("/")[0] for name in transaction.unadvertised}
    agreements.watch_leases(transaction)
    if link_state.release(transaction):
        reroute(transaction)
    if service_state.release(transaction):
        pursue_at_services(transaction)
    stubs.tick(transaction)
    _learn(transaction, tuple(transaction.losses.all))  # some of it may have become too old
    _learn_delays(transaction, tuple(transaction.link_delays.all))  # or has lasted
    pursue_what_can_change(transaction)
    rollout.audit(transaction)
    incidents.tick(transaction)
    transaction.ticked_s = transaction.now_s
