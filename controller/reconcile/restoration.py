"""Links go down and come back: what runs over them takes another way, or ends.

own paths between the same ends that hold all ──▶ in place: one entry at each end is written over
another border                                ──▶ a new plan takes over (intents), make before break
neither, for an intent of ours                ──▶ degraded, if it may be and only latency is at stake; or unsatisfiable
neither, for what we carry for others         ──▶ the agreement ends, with the reason

For others "all" is what they allow: a longer path within what we promised changes nothing for them, one beyond it is
promised anew in the same agreement (dealings.keep_promise).
"""

from msgspec.structs import replace

from controller.fulfillment.fabric import around
from controller.fulfillment.place import repath
from controller.fulfillment.plan_entries import inside_mtu, terms_in_force
from controller.fulfillment.shortfall import BINDINGS
from controller.model.stitch import ConnectionStatus, Stitch
from controller.model.told import Told, Why
from controller.reconcile.identifiers import NoNumber
from controller.reconcile.link_state import concerned, cut, is_back
from controller.reconcile.negotiation.agreements import keep_promise
from controller.reconcile.negotiation.ways import tell
from controller.reconcile.negotiation.withdrawals import give_up, refuse_upstream
from controller.reconcile.tables import AROUND, WAITS, link_key
from controller.reconcile.transaction import Transaction


def reroute(transaction: Transaction) -> None:
    """After links went down or came back. What of ours needs another border, or may prefer it, is left to `pursue`."""
    transaction.fabric = around(transaction.fabric, transaction.graph)
    down = transaction.down.all
    for name in transaction.stitches.all.by(AROUND, *map(link_key, down)):
        stitch = transaction.stitches.get(name)
        if stitch is None or stitch.stage.leaving:
            continue
        plan = stitch.plan
        relieved = any(is_back(transaction, name) for name in plan.around)
        if relieved:
            transaction.relieved.add(plan.name)
        elif not concerned(plan, down) and not concerned(stitch.plan_to_be, down):
            continue
        if move(transaction, stitch, within_latency=True) or not cut(plan, down):
            continue
        if stitch.upstream is not None:
            # which links are down is not the neighbour's business
            give_up(
                transaction, stitch, Why(Told.WAY, f"{transaction.own} has no way any more that holds what is required")
            )
    if transaction.before.down.keys() - transaction.down.all.keys():
        tell(transaction)
    unsettle(transaction)


def move(transaction: Transaction, stitch: Stitch, *, within_latency: bool) -> bool:
    """Onto the best paths that there are now between the same ends; False: there are none that hold what is required
    (`within_latency`: the latency too) and what we have signed."""
    limit_us = _inside_us_max(stitch) if within_latency else None
    moved = repath(stitch.plan, transaction.graph, limit_us)
    if moved is None or inside_mtu(moved, transaction.fabric) < _promised_mtu(stitch):
        return False
    wanted = repath(stitch.wanted, transaction.graph, limit_us) if stitch.wanted is not None else None
    if stitch.wanted is not None and wanted is None:
        refuse_upstream(
            transaction, stitch, Why(Told.WAY, f"{transaction.own} has no way any more that holds what is required")
        )
        if (kept := transaction.stitches.get(moved.name)) is None:
            return True  # nothing was agreed yet, and it has ended
        stitch = kept
    try:
        transaction.put_stitch(replace(stitch, plan=moved, wanted=wanted))
    except NoNumber as error:
        transaction.log("no_room", "warning", owner=moved.owner, plan=moved.name, reason=str(error))
        return False
    if moved.sr_policies != stitch.plan.sr_policies:
        transaction.fresh.add(stitch.plan.name)
        transaction.log("course_moved", owner=moved.owner, plan=moved.name, around=", ".join(moved.around))
    keep_promise(transaction, moved.name)
    return transaction.stitches.get(moved.name) is not None


def _inside_us_max(stitch: Stitch) -> int | None:
    """What the own paths may take, by what is required. For others that may be more than we have promised so far."""
    plan, upstream, downstream = stitch.plan, stitch.upstream, stitch.downstream
    rest_us = plan.egress.latency_us if plan.egress is not None else 0
    if plan.egress is not None and downstream is not None:
        if downstream.agreement is not None:
            agreement = downstream.agreement
            rest_us = plan.egress.delay_us + (agreement.latency_us if upstream is None else agreement.likely_us)
        elif downstream.terms.latency_us_max is not None:
            rest_us = plan.egress.delay_us + downstream.terms.latency_us_max
    terms = terms_in_force(upstream) or (upstream.terms if upstream is not None else None)
    limit_us = terms.latency_us_max if terms is not None else plan.connection.latency_us_max
    return limit_us - rest_us if limit_us is not None else None


def _promised_mtu(stitch: Stitch) -> int:
    """The largest packet that we told a neighbour we take."""
    sizes = [0]
    if stitch.upstream is not None:
        signed = stitch.upstream.answer or stitch.upstream.agreement
        sizes += [] if signed is None else [signed.acceptor_end.inner_mtu]
    if stitch.downstream is not None:
        sizes.append(stitch.downstream.terms.offeror_end.inner_mtu)
    return max(sizes)


def unsettle(transaction: Transaction) -> None:
    """What no way could hold, or none in time, is tried again at once. What others refused or has no room is not."""
    for name in transaction.intent_records.all.by(WAITS):
        intent_record = transaction.intent_records.all[name]
        if any(map(_is_hopeful, intent_record.connection_statuses)):
            connection_statuses = (
                replace(connection_status, retry_s=0) if _is_hopeful(connection_status) else connection_status
                for connection_status in intent_record.connection_statuses
            )
            transaction.intent_records.put(name, replace(intent_record, connection_statuses=tuple(connection_statuses)))


def relieved(transaction: Transaction) -> set[str]:
    """Intents whose way may be better again over another border."""
    owners = (
        transaction.stitches.all[name].plan.owner for name in transaction.relieved if name in transaction.stitches.all
    )
    return {owner.removeprefix("intents/") for owner in owners}


def _is_hopeful(connection_status: ConnectionStatus) -> bool:
    failure = connection_status.unsatisfiable
    return not connection_status.refusal and (
        bool(connection_status.plan) if failure is None else failure.binding in BINDINGS
    )
