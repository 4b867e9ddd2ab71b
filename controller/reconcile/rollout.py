"""From what shall be to what is: node states sent in phases, confirmed, audited (add, switch over, remove)."""

from collections.abc import Collection

import msgspec

from controller.fulfillment.plan_paths import nodes as nodes_of_plan
from controller.model.event import (
    Deviation,
    Discovered,
    Measured,
    NodeDescribed,
    NodeRejected,
    NodeSynced,
    NodeUnreachable,
    SyncNode,
)
from controller.model.node_entries import Delta
from controller.model.sr_policy import SrPolicy
from controller.model.stitch import Fact, Stage, Stitch
from controller.model.told import Told, Why
from controller.reconcile import stubs, tunnel_keys
from controller.reconcile.capacity_check import admit, realized
from controller.reconcile.intents import carried, failed, plan_next_looks, pursue
from controller.reconcile.negotiation.agreements import deliver_answer, keep_promise
from controller.reconcile.negotiation.amendments import settle_bundles
from controller.reconcile.negotiation.ways import take_up
from controller.reconcile.negotiation.withdrawals import LINGER_S, abandon, end
from controller.reconcile.resting import let_rest, rested
from controller.reconcile.restoration import LINKS, follow, pass_by
from controller.reconcile.state import SR_POLICIES, NodeStanding, parts_at, sr_policy_parts
from controller.reconcile.transaction import Transaction
from dataplane.host_api import HostState, NodeDescription

AUDIT_S = 3.0
"""What was changed behind our back is found and repaired within five seconds, a tick and the writing with it."""


def settle(transaction: Transaction) -> None:
    """Brings every node's desired state up to date and every stitch as far as it can go now."""
    while True:
        note_lost(transaction)
        take_up(transaction)
        _pass_by(transaction)
        admit(transaction)
        settle_bundles(transaction)
        _renew_states(transaction)
        if not _advance(transaction) and not transaction.lost and not transaction.loose:
            break
    let_rest(transaction)
    _note_unconfirmed(transaction)
    plan_next_looks(transaction)
    concerned = {*transaction.nodes.touched, *transaction.resync}
    for name, standing in transaction.nodes.all.items():
        if name not in concerned or not standing.described or not standing.reachable or standing.state is None:
            continue
        before = transaction.before.nodes.get(name)
        if before is None or before.generation != standing.generation or name in transaction.resync:
            delta = transaction.deltas.get(name) if name not in transaction.resync else None
            transaction.effects.append(
                SyncNode(node=name, generation=standing.generation, state=standing.state, delta=delta)
            )


def _pass_by(transaction: Transaction) -> None:
    """What begins in this step does not wait for a stub where it need not."""
    if not transaction.stubs.all or not transaction.before.realized.states:
        return
    for name in pass_by(transaction, sorted(transaction.fresh)):
        pursue(transaction, transaction.stitches.all[name].plan.owner.removeprefix("intents/"))


def note_lost(transaction: Transaction) -> None:
    """What has ended without our wanting it is tried again when it is time to."""
    while transaction.lost:
        lost = transaction.lost.pop(0)
        failed(
            transaction,
            lost.stitch,
            lost=lost.why,
            refusal=lost.refusal,
            retry_after_s=lost.retry_after_s,
            held_off=lost.held_off,
            alone=lost.alone,
        )


def _renew_states(transaction: Transaction) -> None:
    changed = (
        transaction.inventory_changed
        or transaction.descriptions.changed
        or transaction.stitches.changed
        or transaction.sr_policies.changed
        or transaction.intent_records.changed
        or transaction.tunnel_keys.changed
        or transaction.fabric is not transaction.before.fabric
        or not transaction.realized.states
    )
    if not changed:
        return
    is_new = transaction.inventory_changed or not transaction.realized.states
    """A node may be there that was not."""
    transaction.realized = made = realized(transaction)
    for name in sorted(made.states if is_new else {*made.changed, *made.hosts_changed}):
        state = made.states[name]
        standing = transaction.nodes.get(name) or NodeStanding()
        if standing.state is state:
            continue
        other = made.changed.get(name)
        if other is None and standing.state is not None and standing.state.host == state.host:
            continue
        if standing.state is None:
            transaction.deltas[name] = None
        elif (delta := transaction.deltas.setdefault(name, Delta(since=standing.generation))) is not None and other:
            transaction.deltas[name] = delta.then(other.put, other.gone)
        transaction.nodes.put(
            name, msgspec.structs.replace(standing, state=state, generation=standing.generation + 1, rejected="")
        )
        stubs.expect(transaction, name)
    for name in sorted(transaction.fresh):
        nodes = _nodes_of(transaction, name)
        awaited = {node: transaction.nodes.all[node].generation for node in nodes if node in transaction.nodes.all}
        transaction.awaiting.put(name, awaited)
    if transaction.before.realized.states:  # else all is awaited because this controller was started
        transaction.restored -= transaction.fresh
    transaction.fresh.clear()


def _nodes_of(transaction: Transaction, name: str) -> Collection[str]:
    stitch = transaction.stitches.get(name)
    if stitch is not None:
        return nodes_of_plan(stitch.plan, transaction.sr_policies.all)
    if (policy := _sr_policy(transaction, name)) is not None:
        return {node for path in policy.candidate_paths for node in path.nodes}
    if name.startswith(LINKS):
        link = transaction.links.get(name.removeprefix(LINKS))
        return {end.node for end in (link.a, link.b) if end is not None} if link is not None else set()
    intent_record = transaction.intent_records.get(name.removeprefix("intents/"))
    isolation = intent_record.requirements.isolation if intent_record is not None else None
    network = transaction.networks.get(isolation.network) if isolation is not None else None
    return {attachment.node for attachment in network.attachments} if network is not None else set()


def _sr_policy(transaction: Transaction, name: str) -> SrPolicy | None:
    return transaction.sr_policies.get(name.removeprefix(SR_POLICIES)) if name.startswith(SR_POLICIES) else None


def _advance(transaction: Transaction) -> bool:
    """Moves on what has been waited for; whether anything moved."""
    moved = False
    for name in _perhaps_there(transaction):
        awaited = transaction.awaiting.get(name)
        if awaited is None:
            continue
        stitch = transaction.stitches.get(name)
        left = {node: at for node, at in awaited.items() if not _has(transaction, node, at, stitch, name)}
        if left:
            transaction.awaiting.put(name, left)
        if stitch is None:
            if not left:
                transaction.awaiting.drop(name)
                if name.startswith(LINKS):
                    transaction.joined.add(name)
            continue
        if stitch.stage == Stage.NEGOTIATING:
            transaction.awaiting.drop(name)
            continue
        if any(not _is_excused(transaction, stitch, node) for node in left):
            continue
        if not left:
            transaction.awaiting.drop(name)
        if stitch.stage == Stage.ADDING and tunnel_keys.waits(transaction, stitch):
            continue  # it is looked at again when they are there
        moved = _next_stage(transaction, stitch) or moved
    if transaction.joined:
        follow(transaction)
        moved = True
    return moved


def _perhaps_there(transaction: Transaction) -> list[str]:
    """Of what is awaited, what this step may have brought."""
    awaiting = transaction.awaiting.all
    if transaction.inventory_changed or not transaction.before.realized.states:
        return list(awaiting)
    return awaiting.in_order(
        {*awaiting.by(*transaction.nodes.touched), *transaction.awaiting.touched, *transaction.stitches.touched}
    )


def _note_unconfirmed(transaction: Transaction) -> None:
    """What a node that went away has not confirmed is stored, so that it is not taken for installed, also by a
    controller that is started later. Of all else it has what it last confirmed."""
    away = {name for name, standing in transaction.nodes.all.items() if not standing.reachable}
    was_away = {name for name, standing in transaction.before.nodes.items() if not standing.reachable}
    if not away and not was_away:
        return
    concerned = {
        *transaction.awaiting.all.by(*away ^ was_away),
        *transaction.awaiting.touched,
        *(transaction.before.restored - transaction.restored),
    }
    for name in transaction.before.awaiting.in_order(concerned) + transaction.awaiting.all.in_order(concerned):
        stitch = transaction.stitches.get(name)
        intent_record = (
            transaction.intent_records.get(name.removeprefix("intents/")) if name.startswith("intents/") else None
        )
        if stitch is not None:
            nodes = _unconfirmed(transaction, name, away, stitch.unconfirmed)
            transaction.put_stitch(msgspec.structs.replace(stitch, unconfirmed=nodes))
        elif (policy := _sr_policy(transaction, name)) is not None:
            nodes = _unconfirmed(transaction, name, away, policy.unconfirmed)
            transaction.put_sr_policy(msgspec.structs.replace(policy, unconfirmed=nodes))
        elif intent_record is not None:
            nodes = _unconfirmed(transaction, name, away, intent_record.unconfirmed)
            transaction.intent_records.put(
                intent_record.intent.name, msgspec.structs.replace(intent_record, unconfirmed=nodes)
            )


def _unconfirmed(
    transaction: Transaction, name: str, away: Collection[str], before: tuple[str, ...]
) -> tuple[str, ...]:
    awaited = transaction.awaiting.get(name) or {}
    if name in transaction.restored:
        return tuple(node for node in before if node in awaited)
    return tuple(sorted(node for node in awaited if node in away))


def _has(transaction: Transaction, node: str, generation: int, stitch: Stitch | None, name: str) -> bool:
    """Whether a node has what it shall have of a stitch, or of what else has this name."""
    standing = transaction.nodes.get(node)
    if standing is None or standing.confirmed >= generation:
        return True
    if not standing.rejected:
        return False
    if stitch is not None:
        parts = parts_at(node, stitch, transaction.links.all, transaction.sr_policies.all)
        return standing.has(generation, parts)
    policy = _sr_policy(transaction, name)
    return standing.has(generation, (name,) if policy is None else sr_policy_parts(policy))


def _is_excused(transaction: Transaction, stitch: Stitch, node: str) -> bool:
    """Unreachable nodes hold up neither what is new nor what goes; they do hold up a switch-over and a promise. A node
    that refuses something does not hold up what goes."""
    standing = transaction.nodes.get(node)
    if standing is None or (standing.reachable and not (standing.rejected and stitch.stage == Stage.REMOVING)):
        return False
    return stitch.stage == Stage.REMOVING or (stitch.upstream is None and not stitch.replaces)


def _next_stage(transaction: Transaction, stitch: Stitch) -> bool:
    match stitch.stage, stitch.stage.after(Fact.CONFIRMED):
        case Stage.ADDING, stage:
            active = deliver_answer(transaction, msgspec.structs.replace(stitch, stage=stage, replaces=""))
            transaction.put_stitch(active)
            transaction.log("course_active", owner=stitch.plan.owner, plan=stitch.plan.name)
            if stitch.upstream is None:
                transaction.fresh.add(stitch.plan.name)
                carried(transaction, active)
                abandon(transaction, stitch.replaces, "another plan has taken over", LINGER_S)
            keep_promise(transaction, stitch.plan.name)
            return True
        case Stage.ACTIVE, _ if stitch.upstream is not None and stitch.upstream.answer is not None:
            transaction.put_stitch(deliver_answer(transaction, stitch))
            keep_promise(transaction, stitch.plan.name)
            return True
        case Stage.REMOVING, _:
            end(transaction, stitch, Why(Told.UNWANTED, "withdrawn"), linger_s=stitch.linger_s)
            return True
        case _:
            return False


def described(transaction: Transaction, event: NodeDescribed) -> None:
    standing = transaction.nodes.get(event.node)
    if standing is None or transaction.inventory_nodes.get(event.node) is None:
        return
    if event.description.name != event.node:
        reason = f"its agent says it is {event.description.name}: check `agent` of the node's manifest"
        unreachable(transaction, NodeUnreachable(node=event.node, reason=reason))
        return
    if not standing.reachable:
        transaction.log("node_reachable", node=event.node)
    lasting = _lasting(event.description)
    again = standing.described and standing.reachable and lasting == transaction.descriptions.get(event.node)
    transaction.descriptions.put(event.node, lasting)
    transaction.profiles.put(event.node, event.sizes)
    standing = msgspec.structs.replace(
        standing,
        reachable=True,
        reason="",
        unreachable_s=None,
        described=True,
        description=event.description,
        confirmed=standing.confirmed if again else -1,
    )
    transaction.nodes.put(event.node, standing)
    transaction.resync.add(event.node)
    if not standing.settled:
        stubs.expect(transaction, event.node)


def _lasting(description: NodeDescription) -> NodeDescription:
    """Without what changes by itself."""
    borders = tuple(
        msgspec.structs.replace(
            border, carrier=True, up=False, latest_handshake_s=0, received_bytes=0, sent_bytes=0, keys=()
        )
        for border in description.borders
    )
    ports = tuple(msgspec.structs.replace(port, carrier=True, faults=(), silent=False) for port in description.ports)
    return msgspec.structs.replace(description, borders=borders, ports=ports, host_state=HostState())


def unreachable(transaction: Transaction, event: NodeUnreachable) -> None:
    standing = transaction.nodes.get(event.node)
    if standing is None:
        return
    if standing.reachable or standing.reason != event.reason:
        transaction.log("node_unreachable", "warning", node=event.node, reason=event.reason)
    since_s = transaction.now_s if standing.unreachable_s is None else standing.unreachable_s
    transaction.nodes.put(
        event.node,
        msgspec.structs.replace(
            standing,
            reachable=False,
            reason=event.reason,
            unreachable_s=since_s,
            remote_systems=(),
            heard_hosts=(),
            measured_ports=(),
            measured_paths=(),
        ),
    )


def discovered(transaction: Transaction, event: Discovered) -> None:
    """It changes what is shown, and nothing that is installed: what a frame says proves nothing."""
    standing = transaction.nodes.get(event.node)
    if standing is None or not standing.reachable:
        return
    transaction.nodes.put(
        event.node,
        msgspec.structs.replace(
            standing, remote_systems=event.remote_systems, lldp_counts=event.counts, heard_hosts=event.hosts
        ),
    )


def measured(transaction: Transaction, event: Measured) -> None:
    standing = transaction.nodes.get(event.node)
    if standing is not None and standing.reachable:
        transaction.nodes.put(
            event.node, msgspec.structs.replace(standing, measured_ports=event.ports, measured_paths=event.paths)
        )


def synced(transaction: Transaction, event: NodeSynced) -> None:
    standing = transaction.nodes.get(event.node)
    if standing is None:
        return
    stubs.confirm(transaction, event, standing.generation)
    for deviation in event.deviations:
        _log_deviation(transaction, deviation)
    has_all_again = event.generation == standing.generation and standing.rejected  # which an audit was refused
    if event.generation > standing.confirmed or has_all_again:
        transaction.log("node_synced", node=event.node, writes=str(event.writes))
        rejected = "" if event.generation == standing.generation else standing.rejected
        if event.generation == standing.generation:
            rested(transaction, event.node)
        transaction.nodes.put(
            event.node, msgspec.structs.replace(standing, confirmed=event.generation, rejected=rejected)
        )


def _log_deviation(transaction: Transaction, deviation: Deviation) -> None:
    transaction.log(
        "deviation_repaired",
        "warning",
        node=deviation.node,
        what=deviation.what,
        table=deviation.table,
        detail=deviation.detail,
        owner=deviation.owner,
    )


def rejected(transaction: Transaction, event: NodeRejected) -> None:
    standing = transaction.nodes.get(event.node)
    if standing is not None:
        stubs.refuse(transaction, event)
    if standing is None or event.generation != standing.generation:
        return
    transaction.log("node_rejected", "error", node=event.node, reason=event.reason)
    transaction.nodes.put(event.node, msgspec.structs.replace(standing, rejected=event.reason, refused=event.refused))


def audit(transaction: Transaction) -> None:
    """Every node that should have all it shall have is read back; one that refused is asked again."""
    if 0 <= transaction.now_s - transaction.audited_s < AUDIT_S:  # a clock that was set back does not put it off
        return
    transaction.audited_s = transaction.now_s
    for name, standing in transaction.nodes.all.items():
        if not standing.reachable or not standing.described or standing.state is None:
            continue
        had_all = standing.confirmed == standing.generation
        if had_all or standing.rejected:
            transaction.effects.append(
                SyncNode(node=name, generation=standing.generation, state=standing.state, audit=had_all)
            )
