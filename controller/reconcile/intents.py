"""What we do about the intents of our own domain: place them, offer, take over, give up, try again."""

import math

import msgspec

from controller.fulfillment.place import leads_better, place
from controller.fulfillment.waypoints import confused
from controller.model.advertising import heard_owner
from controller.model.intent import Intent
from controller.model.plan import Plan
from controller.model.requirements import Connection, Requirements, Unsatisfiable
from controller.model.rule import Added
from controller.model.stitch import ConnectionStatus, HeldOff, IntentRecord, Stage, Stitch, expired
from controller.model.told import Told, passed_on
from controller.reconcile import service_state
from controller.reconcile.bundles import choose
from controller.reconcile.identifiers import NoNumber
from controller.reconcile.negotiation.agreements import offer_onward
from controller.reconcile.negotiation.withdrawals import LOST_RETRY_S, MAX_HOLD_OFF_S, abandon
from controller.reconcile.restoration import move, relieved
from controller.reconcile.selecting import inherited, is_in_doubt, next_look_s, reselected
from controller.reconcile.serials import next_serial
from controller.reconcile.tables import candidate_key, link_key, service_key
from controller.reconcile.transaction import Leaving, Transaction
from controller.reconcile.translation_pool import hold
from controller.reconcile.wanted import RETRY_S, eased, ends, is_good, is_right, may_be_tried

REFUSED_RETRY_S = 5
"""The first time after a refusal, whose cause we cannot see go; then twice as long each time."""


def undertake(
    transaction: Transaction,
    intent: Intent,
    requirements: Requirements,
    added: tuple[Added, ...] = (),
    *,
    again: bool = False,
) -> None:
    """Begin with an intent, or with what has changed of it. What did not change stays as it is.

    `again`: somebody applies it, so that a lease of some length begins anew.
    """
    hold(transaction, requirements.connections)
    intent_record = transaction.intent_records.get(intent.name)
    now_s = int(transaction.now_s)
    if intent_record is None:
        intent_record = IntentRecord(
            intent=intent,
            created_s=now_s,
            applied_s=now_s,
            serial=next_serial(transaction),
            requirements=requirements,
            added=added,
        )
        connection_statuses: tuple[ConnectionStatus, ...] = tuple(ConnectionStatus() for _ in requirements.connections)
        transaction.log("intent_accepted", intent=intent.name, tenant=intent.tenant)
    elif _says_the_same(intent_record, intent, requirements, added) and not expired(intent_record):
        transaction.intent_records.put(intent.name, msgspec.structs.replace(intent_record, requirements=requirements))
        if again:
            renew(transaction, msgspec.structs.replace(intent_record, requirements=requirements))
        return
    else:
        connection_statuses = _taken_over(transaction, intent_record, intent, requirements, "the intent was changed")
        intent_record = msgspec.structs.replace(
            intent_record,
            intent=intent,
            requirements=requirements,
            added=added,
            applied_s=now_s
            if again or intent_record.intent != intent or expired(intent_record)
            else intent_record.applied_s,
        )
        transaction.log("intent_changed", intent=intent.name, tenant=intent.tenant)
    intent_record = msgspec.structs.replace(intent_record, connection_statuses=connection_statuses)
    transaction.intent_records.put(intent.name, intent_record)
    _move_end(transaction, intent_record)
    transaction.fresh.add(f"intents/{intent.name}")
    pursue(transaction, intent.name)


def _says_the_same(
    intent_record: IntentRecord, intent: Intent, requirements: Requirements, added: tuple[Added, ...]
) -> bool:
    """What is known of the services that were not chosen may be other than before."""
    before, now = (
        msgspec.structs.replace(required, selections=()) for required in (intent_record.requirements, requirements)
    )
    return (intent_record.intent, before, intent_record.added) == (intent, now, added)


def _taken_over(
    transaction: Transaction, before: IntentRecord, intent: Intent, requirements: Requirements, why: str
) -> tuple[ConnectionStatus, ...]:
    """Of what is required now: with the plans of what was required before. What is in nobody's place ends."""
    heirs = inherited(before, intent, requirements)
    kept = {id(status) for status in heirs.values()}
    for status in before.connection_statuses:
        if id(status) not in kept:
            abandon(transaction, status.coming, why)
            abandon(transaction, status.plan, why)
    bounds = {ends(connection): _bounds(connection) for connection in before.requirements.connections}
    taken = []
    for connection in requirements.connections:
        status = heirs.get(ends(connection), ConnectionStatus())
        was_carried = status.was_carried and bounds.get(ends(connection)) == _bounds(connection)
        taken.append(ConnectionStatus(plan=status.plan, coming=status.coming, was_carried=was_carried))
    return tuple(taken)


def _bounds(connection: Connection) -> tuple[object, ...]:
    """What an intent may go on without."""
    return connection.latency_us_max, connection.loss_ppm_max, connection.disjoint


def _reselect(transaction: Transaction, intent_record: IntentRecord) -> IntentRecord:
    """What it describes may lead elsewhere now. Connections that are as they were stand as they did."""
    if not is_in_doubt(transaction, intent_record):
        return intent_record
    other = reselected(transaction, intent_record)
    if other is intent_record:
        transaction.pursuits.put(intent_record.intent.name, _next_look_s(transaction, intent_record))
        return intent_record
    before, now = intent_record.requirements.connections, other.requirements.connections
    hold(transaction, now)
    statuses = intent_record.connection_statuses
    if before != now:
        known = dict(zip(before, statuses, strict=True))
        moved = _taken_over(transaction, intent_record, other.intent, other.requirements, "another service is chosen")
        statuses = tuple(known.get(connection, status) for connection, status in zip(now, moved, strict=True))
        transaction.fresh.add(f"intents/{other.intent.name}")
    other = msgspec.structs.replace(other, connection_statuses=statuses)
    transaction.intent_records.put(other.intent.name, other)
    return other


def renew(transaction: Transaction, intent_record: IntentRecord) -> None:
    """Its lease begins anew, if it is one of some length that is not over."""
    if intent_record.intent.lease_s is not None:
        intent_record = msgspec.structs.replace(intent_record, applied_s=int(transaction.now_s))
        transaction.intent_records.put(intent_record.intent.name, intent_record)
        _move_end(transaction, intent_record)


def _move_end(transaction: Transaction, intent_record: IntentRecord) -> None:
    """What carries an intent ends when it does."""
    for plan in (
        plan
        for connection_status in intent_record.connection_statuses
        for plan in (connection_status.plan, connection_status.coming)
    ):
        stitch = transaction.stitches.get(plan)
        if stitch is not None and stitch.expires_s != intent_record.expires_s:
            transaction.put_stitch(msgspec.structs.replace(stitch, expires_s=intent_record.expires_s))
            transaction.fresh.add(plan)


def pursue(transaction: Transaction, name: str) -> None:
    """Whatever can be done now for each connection of an intent that has no right plan."""
    intent_record = transaction.intent_records.get(name)
    if intent_record is None:
        return
    if intent_record.expires_s is not None and intent_record.expires_s <= transaction.now_s:
        _expire(transaction, intent_record)
        return
    intent_record = _reselect(transaction, intent_record)
    connection_statuses = [
        _pursue(transaction, intent_record, connection, connection_status)
        for connection, connection_status in zip(
            intent_record.requirements.connections, intent_record.connection_statuses, strict=True
        )
    ]
    transaction.intent_records.put(
        name, msgspec.structs.replace(intent_record, connection_statuses=tuple(connection_statuses))
    )


def pursue_at_services(transaction: Transaction) -> None:
    """Intents whose traffic is to pass a service that has gone down or come back."""
    services = transaction.services_down.all.keys() ^ transaction.before.services_down.keys()
    for name in transaction.intent_records.all.in_order(service_state.concerned(transaction, services)):
        record = transaction.intent_records.all[name]
        statuses = tuple(
            msgspec.structs.replace(status, retry_s=0) if not status.refusal else status
            for status in record.connection_statuses
        )
        transaction.intent_records.put(name, msgspec.structs.replace(record, connection_statuses=statuses))
        pursue(transaction, name)


def pursue_what_can_change(transaction: Transaction) -> None:
    """Intents that are due, and those that this step may have changed something for."""
    if transaction.clock_set_back or transaction.inventory_changed:
        names = list(transaction.intent_records.all)
    else:
        changed = {*transaction.pursuits.ready(transaction.now_s), *relieved(transaction), *_unsettled_by(transaction)}
        owners = {heard_owner(name) for name in transaction.reaches.touched}
        changed.update(transaction.intent_records.all.by(*map(candidate_key, sorted(owners))))
        names = transaction.intent_records.all.in_order(changed)
    for name in names:
        pursue(transaction, name)


def plan_next_looks(transaction: Transaction) -> None:
    """At the end of a step: when the intents that it may have changed something for are to be looked at."""
    for name in transaction.intent_records.all.in_order(_unsettled_by(transaction)):
        look_s = _next_look_s(transaction, transaction.intent_records.all[name])
        if look_s < math.inf:
            transaction.pursuits.put(name, look_s)
        else:
            transaction.pursuits.drop(name)
    for name in transaction.intent_records.touched:
        if transaction.intent_records.get(name) is None:
            transaction.pursuits.drop(name)


def _unsettled_by(transaction: Transaction) -> set[str]:
    """Intents that this step has changed, or their stitches, or borders that these are over."""
    stitches = {*transaction.stitches.touched, *transaction.unsettled}
    stitches.update(transaction.stitches.all.by(*map(link_key, transaction.down.touched)))
    unsettled = {*transaction.intent_records.touched}
    for name in stitches:
        stitch = transaction.stitches.get(name) or transaction.before.stitches.get(name)
        if stitch is not None and stitch.plan.owner.startswith("intents/"):
            unsettled.add(stitch.plan.owner.removeprefix("intents/"))
    return unsettled


def _next_look_s(transaction: Transaction, intent_record: IntentRecord) -> float:
    """When there is something to do for an intent if nothing happens before; infinite: never."""
    if expired(intent_record):
        return math.inf
    looks_s = [math.inf if intent_record.expires_s is None else intent_record.expires_s]
    if not intent_record.requirements.unmet:
        for connection, connection_status in zip(
            intent_record.requirements.connections, intent_record.connection_statuses, strict=True
        ):
            current = transaction.stitches.get(connection_status.coming or connection_status.plan)
            if current is None or not is_good(transaction, current, intent_record, connection):
                looks_s.append(connection_status.retry_s)
    if intent_record.requirements.selections:
        looks_s.append(next_look_s(intent_record.intent.name, transaction.now_s))
    return min(looks_s)


def _expire(transaction: Transaction, intent_record: IntentRecord) -> None:
    if any(
        connection_status.plan or connection_status.coming for connection_status in intent_record.connection_statuses
    ) or not expired(intent_record):
        for connection_status in intent_record.connection_statuses:
            abandon(transaction, connection_status.coming, "the intent has expired")
            abandon(transaction, connection_status.plan, "the intent has expired")
        blank = tuple(ConnectionStatus(retry_s=-1) for _ in intent_record.connection_statuses)
        nothing = msgspec.structs.replace(intent_record.requirements, isolation=None, selections=())
        transaction.intent_records.put(
            intent_record.intent.name,
            msgspec.structs.replace(intent_record, connection_statuses=blank, requirements=nothing),
        )
        transaction.log("intent_expired", intent=intent_record.intent.name)


def _pursue(
    transaction: Transaction, intent_record: IntentRecord, connection: Connection, connection_status: ConnectionStatus
) -> ConnectionStatus:
    if intent_record.requirements.unmet:
        abandon(transaction, connection_status.coming, "what is required cannot be met")
        abandon(transaction, connection_status.plan, "what is required cannot be met")
        return ConnectionStatus(unsatisfiable=intent_record.requirements.unmet[0])
    current = transaction.stitches.get(connection_status.coming or connection_status.plan)
    good = current.plan if current is not None and is_good(transaction, current, intent_record, connection) else None
    if good is not None and good.name not in transaction.relieved:
        return connection_status
    if not may_be_tried(connection_status, transaction.now_s):
        return connection_status
    serial = (transaction.counters.get("serial") or 0) + 1
    held_off = _held_off(connection_status, transaction.now_s)

    def placed_as(required: Connection) -> Plan | Unsatisfiable:
        return _confused(transaction, intent_record, required) or place(
            required,
            transaction.graph,
            name=f"{intent_record.intent.name}.{serial}",
            owner=f"intents/{intent_record.intent.name}",
            excluded={*connection_status.excluded, *(refusal.border for refusal in held_off)},
            priority=intent_record.intent.priority,
            serial=intent_record.serial,
        )

    placed = placed_as(connection)
    less = eased(intent_record, connection, connection_status) if isinstance(placed, Unsatisfiable) else None
    if less is not None and current is not None and is_good(transaction, current, intent_record, less):
        return _tried_again(transaction, connection_status, held_off)
    if good is not None and (isinstance(placed, Unsatisfiable) or not _leads_better(transaction, placed, good)):
        return connection_status
    if connection_status.coming:
        abandon(transaction, connection_status.coming, "another way is wanted")
    goes_on = isinstance(placed, Unsatisfiable) and placed.binding != "via"
    if goes_on and _degrade(transaction, intent_record, connection, connection_status):
        return ConnectionStatus(
            plan=connection_status.plan,
            no_way=connection_status.no_way,
            retry_s=int(transaction.now_s) + RETRY_S,
            held_off=held_off,
            was_carried=connection_status.was_carried,
        )
    if less is not None:
        carrying = transaction.stitches.get(connection_status.plan)
        if carrying is not None and is_good(transaction, carrying, intent_record, less):
            return _tried_again(transaction, msgspec.structs.replace(connection_status, coming=""), held_off)
        otherwise = placed_as(less)
        placed = otherwise if isinstance(otherwise, Plan) else placed
    if isinstance(placed, Unsatisfiable):
        placed = _explained(placed, intent_record.requirements, connection)
        abandon(transaction, connection_status.plan, "what is required can no longer be held")
        event = "intent_refused" if connection_status.refusal else "intent_unsatisfiable"
        transaction.log(
            event, "warning", intent=intent_record.intent.name, reason=connection_status.refusal or placed.message
        )
        again = _tried_again(transaction, connection_status, held_off)
        return msgspec.structs.replace(again, plan="", coming="", lost="", unsatisfiable=placed)
    replaces = connection_status.plan if transaction.stitches.get(connection_status.plan) is not None else ""
    try:
        stitch = begin(transaction, placed, serial, replaces, intent_record, alone=connection_status.alone)
    except NoNumber as error:
        full = Unsatisfiable(binding="capacity", message=str(error))
        return _without_room(transaction, intent_record, connection, connection_status, full, RETRY_S)
    if stitch is None:
        return msgspec.structs.replace(connection_status, coming="", retry_s=0)
    return ConnectionStatus(
        plan=connection_status.plan if replaces else "",
        coming=placed.name,
        excluded=connection_status.excluded,
        refusal=connection_status.refusal,
        no_way=connection_status.no_way,
        lost=connection_status.lost,
        tries=connection_status.tries,
        held_off=held_off,
        was_carried=connection_status.was_carried,
    )


def _tried_again(
    transaction: Transaction, connection_status: ConnectionStatus, held_off: tuple[HeldOff, ...]
) -> ConnectionStatus:
    """As it is now, and later wherever it may be: what was refused after 5 s, then after 10, 20, ... to 60."""
    refusal = connection_status.refusal
    wait_s = min(RETRY_S, REFUSED_RETRY_S * 2**connection_status.tries) if refusal else RETRY_S
    if {*connection_status.excluded} <= {refusal.border for refusal in held_off}:  # nobody else has refused it
        wait_s = min([RETRY_S, *(each.until_s - int(transaction.now_s) for each in held_off if each.until_s)])
    return ConnectionStatus(
        plan=connection_status.plan,
        coming=connection_status.coming,
        refusal=refusal,
        lost=connection_status.lost,
        no_way=connection_status.no_way,
        retry_s=int(transaction.now_s) + wait_s,
        tries=min(connection_status.tries + 1, 8) if refusal else 0,
        held_off=held_off,
        was_carried=connection_status.was_carried,
    )


def _confused(transaction: Transaction, intent_record: IntentRecord, connection: Connection) -> Unsatisfiable | None:
    """Where a service on its way could not tell its traffic from what passes it already."""
    owner, stitches = f"intents/{intent_record.intent.name}", transaction.stitches.all
    names = stitches.by(*(service_key(waypoint.service) for waypoint in connection.via))
    others = (stitches[name].plan for name in names)
    message = confused(connection, (plan.connection for plan in others if plan.owner != owner))
    return Unsatisfiable(binding="via", message=message) if message else None


def _held_off(connection_status: ConnectionStatus, now_s: float) -> tuple[HeldOff, ...]:
    """What has not passed; later than the longest, the clock was set back."""
    return tuple(
        refusal
        for refusal in connection_status.held_off
        if not refusal.until_s or now_s < refusal.until_s <= now_s + MAX_HOLD_OFF_S + 1
    )


def _without_room(
    transaction: Transaction,
    intent_record: IntentRecord,
    connection: Connection,
    connection_status: ConnectionStatus,
    full: Unsatisfiable,
    retry_after_s: int,
) -> ConnectionStatus:
    """No other plan has room beside what is there. What is there goes, if it is not what is wanted any more; then there
    may be room."""
    current = transaction.stitches.get(connection_status.plan)
    if current is None or is_right(current.plan, intent_record, connection):
        after_s = retry_after_s
    else:
        abandon(
            transaction,
            connection_status.plan,
            "it is not what is wanted any more, and there is no room for another beside it",
        )
        connection_status, after_s = msgspec.structs.replace(connection_status, plan=""), LOST_RETRY_S
    return msgspec.structs.replace(
        connection_status, coming="", unsatisfiable=full, retry_s=int(transaction.now_s) + after_s
    )


def turned_away(transaction: Transaction, stitch: Stitch, full: Unsatisfiable, retry_after_s: int = RETRY_S) -> None:
    """A stitch of ours that has just begun, and is gone again, has no room."""
    intent_record = transaction.intent_records.get(stitch.plan.owner.removeprefix("intents/"))
    if intent_record is None:
        return
    connection_statuses = tuple(
        _without_room(transaction, intent_record, connection, connection_status, full, retry_after_s)
        if connection_status.coming == stitch.plan.name
        else connection_status
        for connection, connection_status in zip(
            intent_record.requirements.connections, intent_record.connection_statuses, strict=True
        )
    )
    transaction.intent_records.put(
        intent_record.intent.name, msgspec.structs.replace(intent_record, connection_statuses=connection_statuses)
    )


def _degrade(
    transaction: Transaction, intent_record: IntentRecord, connection: Connection, connection_status: ConnectionStatus
) -> bool:
    """Whether what cannot be had in time goes on slower, or what has no second path by the first alone, over the same
    border (`on_violation`)."""
    stitch = transaction.stitches.get(connection_status.plan)
    if stitch is None or intent_record.intent.on_violation != "degrade":
        return False
    return is_right(stitch.plan, intent_record, connection) and move(transaction, stitch, within_latency=False)


def _explained(unsatisfiable: Unsatisfiable, requirements: Requirements, connection: Connection) -> Unsatisfiable:
    """With the rule or plugin that the requirement comes from."""
    for origin in requirements.origins:
        here = (origin.source_network, origin.destination_network) == ends(connection)
        if here and origin.clause == unsatisfiable.binding and origin.origin != "clause":
            why = f": {origin.explain}" if origin.explain else ""
            return msgspec.structs.replace(
                unsatisfiable, message=f"{unsatisfiable.message} ({origin.requirement} is of {origin.origin}{why})"
            )
    return unsatisfiable


def _leads_better(transaction: Transaction, placed: Plan, good: Plan) -> bool:
    return leads_better(placed, transaction.graph, good, transaction.sr_policies.all)


def begin(
    transaction: Transaction, plan: Plan, serial: int, replaces: str, intent_record: IntentRecord, *, alone: bool
) -> Stitch | None:
    """The stitch of a new plan of ours; None while a gateway that it needs has not said what it is. Raises NoNumber."""
    if plan.egress is not None and plan.egress.border not in transaction.fabric.border_ports:
        return None
    expires_s = intent_record.expires_s
    if expires_s is None and not alone:
        plan = msgspec.structs.replace(plan, bundle=choose(transaction, plan, intent_record.intent.tenant))
    stitch = Stitch(
        plan=plan,
        serial=serial,
        stage=Stage.ADDING if plan.egress is None else Stage.NEGOTIATING,
        downstream=transaction.bundles.get(plan.bundle),
        replaces=replaces,
        expires_s=expires_s,
    )
    transaction.put_stitch(stitch)
    transaction.counters.put("serial", serial)
    transaction.fresh.add(plan.name)
    if plan.bundle:
        transaction.loose.setdefault(plan.bundle, Leaving(session=stitch.downstream))
    elif plan.egress is not None:
        offer_onward(transaction, plan.name)
    return stitch


def carried(transaction: Transaction, stitch: Stitch) -> None:
    """A stitch of ours has become active: it takes the place of the one before."""
    name = stitch.plan.owner.removeprefix("intents/")
    intent_record = transaction.intent_records.get(name)
    if intent_record is None:
        return
    connection_statuses = tuple(
        _carried_by(transaction, stitch.plan, connection, connection_status)
        if connection_status.coming == stitch.plan.name
        else connection_status
        for connection, connection_status in zip(
            intent_record.requirements.connections, intent_record.connection_statuses, strict=True
        )
    )
    transaction.intent_records.put(
        name, msgspec.structs.replace(intent_record, connection_statuses=connection_statuses)
    )


def _carried_by(
    transaction: Transaction, plan: Plan, connection: Connection, connection_status: ConnectionStatus
) -> ConnectionStatus:
    held_off = _held_off(connection_status, transaction.now_s)
    if plan.connection == connection.eased != connection:  # who has no way for the rest is not asked again at once
        again = _tried_again(transaction, connection_status, held_off)
        return msgspec.structs.replace(again, plan=plan.name, coming="", lost="")
    was_carried = connection_status.was_carried or plan.connection == connection
    return ConnectionStatus(plan=plan.name, held_off=held_off, was_carried=was_carried)


def failed(
    transaction: Transaction,
    stitch: Stitch,
    *,
    lost: str = "",
    refusal: str = "",
    retry_after_s: int = 0,
    held_off: HeldOff | None = None,
    alone: bool = False,
) -> None:
    """A stitch of ours is gone. After a refusal the other borders are tried, else the same again later."""
    name = stitch.plan.owner.removeprefix("intents/")
    intent_record = transaction.intent_records.get(name)
    if intent_record is None:
        return
    plan = stitch.plan
    connection_statuses = []
    for connection_status in intent_record.connection_statuses:
        if plan.name not in (connection_status.plan, connection_status.coming):
            connection_statuses.append(connection_status)
            continue
        rest = ConnectionStatus(
            plan="" if connection_status.plan == plan.name else connection_status.plan,
            coming="" if connection_status.coming == plan.name else connection_status.coming,
            excluded=connection_status.excluded,
            refusal=refusal or connection_status.refusal,
            no_way=connection_status.no_way,
            lost=lost or connection_status.lost,
            tries=connection_status.tries,
            alone=alone,
            retry_s=int(transaction.now_s) + retry_after_s if retry_after_s else 0,
            held_off=_held_off(connection_status, transaction.now_s) + (() if held_off is None else (held_off,)),
            was_carried=connection_status.was_carried,
        )
        if refusal and plan.egress is not None:
            rest = msgspec.structs.replace(
                rest, excluded=tuple(sorted({*connection_status.excluded, plan.egress.border}))
            )
            if passed_on(refusal, plan.egress.domain)[0] is Told.WAY:
                rest = msgspec.structs.replace(rest, no_way=tuple(sorted({*rest.no_way, plan.egress.domain})))
        connection_statuses.append(rest)
    transaction.intent_records.put(
        name, msgspec.structs.replace(intent_record, connection_statuses=tuple(connection_statuses))
    )
    pursue(transaction, name)
