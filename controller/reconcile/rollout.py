"""From what shall be to what is: node states sent in phases, confirmed, audited (add, switch over, remove)."""

from collections.abc import Collection

import msgspec

from controller.model.course import Course, Fact, Stage
from controller.model.event import Deviation, NodeDescribed, NodeRejected, NodeSynced, NodeUnreachable, SyncNode
from controller.model.node_entries import Delta
from controller.model.told import Told, Why
from controller.reconcile.admission import admit, realized
from controller.reconcile.dealings import LINGER_S, abandon, deliver_answer, end, keep_promise
from controller.reconcile.resting import rested
from controller.reconcile.state import NodeStanding, parts_at
from controller.reconcile.turn import Turn
from controller.reconcile.undertakings import carried, failed, plan_next_looks
from dataplane.host_api import HostState, NodeDescription

AUDIT_S = 2.0


def settle(turn: Turn) -> None:
    """Brings every node's desired state up to date and every course as far as it can go now."""
    while True:
        while turn.lost:
            lost = turn.lost.pop(0)
            failed(
                turn,
                lost.course,
                lost=lost.why,
                refusal=lost.refusal,
                retry_after_s=lost.retry_after_s,
                held_off=lost.held_off,
            )
        admit(turn)
        _renew_states(turn)
        if not _advance(turn) and not turn.lost:
            break
    _note_unconfirmed(turn)
    plan_next_looks(turn)
    for name, standing in turn.nodes.all.items():
        if not standing.described or not standing.reachable or standing.state is None:
            continue
        before = turn.before.nodes.get(name)
        if before is None or before.generation != standing.generation or name in turn.resync:
            delta = turn.deltas.get(name) if name not in turn.resync else None
            turn.effects.append(SyncNode(node=name, generation=standing.generation, state=standing.state, delta=delta))


def _renew_states(turn: Turn) -> None:
    changed = (
        turn.inventory_changed
        or turn.descriptions.changed
        or turn.courses.changed
        or turn.undertakings.changed
        or turn.fabric is not turn.before.fabric
        or not turn.realized.states
    )
    if not changed:
        return
    turn.realized = realized(turn)
    for name, state in turn.realized.states.items():
        standing = turn.nodes.get(name) or NodeStanding()
        other = turn.realized.changed.get(name)
        if other is None and standing.state is not None and standing.state.host == state.host:
            continue
        if standing.state is None:
            turn.deltas[name] = None
        elif (delta := turn.deltas.setdefault(name, Delta(since=standing.generation))) is not None and other:
            turn.deltas[name] = delta.then(other.put, other.gone)
        turn.nodes.put(
            name, msgspec.structs.replace(standing, state=state, generation=standing.generation + 1, rejected="")
        )
    for name in sorted(turn.fresh):
        nodes = _nodes_of(turn, name)
        awaited = {node: turn.nodes.all[node].generation for node in nodes if node in turn.nodes.all}
        turn.awaiting.put(name, awaited)
    if turn.before.realized.states:  # else all is awaited because this controller was started
        turn.restored -= turn.fresh
    turn.fresh.clear()


def _nodes_of(turn: Turn, name: str) -> Collection[str]:
    course = turn.courses.get(name)
    if course is not None:
        return course.plan.nodes
    undertaking = turn.undertakings.get(name.removeprefix("intents/"))
    isolation = undertaking.requirements.isolation if undertaking is not None else None
    network = turn.networks.get(isolation.network) if isolation is not None else None
    return {attachment.node for attachment in network.attachments} if network is not None else set()


def _advance(turn: Turn) -> bool:
    """Moves on what has been waited for; whether anything moved."""
    moved = False
    for name in _perhaps_there(turn):
        awaited = turn.awaiting.get(name)
        if awaited is None:
            continue
        course = turn.courses.get(name)
        left = {
            node: generation
            for node, generation in awaited.items()
            if not _has(
                turn, node, generation, parts_at(node, course, turn.links.all) if course is not None else (name,)
            )
        }
        if left:
            turn.awaiting.put(name, left)
        if course is None:
            if not left:
                turn.awaiting.drop(name)
            continue
        if course.stage == Stage.NEGOTIATING:
            turn.awaiting.drop(name)
            continue
        if any(not _is_excused(turn, course, node) for node in left):
            continue
        if not left:
            turn.awaiting.drop(name)
        moved = _next_stage(turn, course) or moved
    return moved


def _perhaps_there(turn: Turn) -> list[str]:
    """Of what is awaited, what this step may have brought."""
    awaiting = turn.awaiting.all
    if turn.inventory_changed or not turn.before.realized.states:
        return list(awaiting)
    return awaiting.in_order({*awaiting.by(*turn.nodes.touched), *turn.awaiting.touched, *turn.courses.touched})


def _note_unconfirmed(turn: Turn) -> None:
    """What a node that went away has not confirmed is stored, so that it is not taken for installed, also by a
    controller that is started later. Of all else it has what it last confirmed."""
    away = {name for name, standing in turn.nodes.all.items() if not standing.reachable}
    was_away = {name for name, standing in turn.before.nodes.items() if not standing.reachable}
    if not away and not was_away:
        return
    concerned = {
        *turn.awaiting.all.by(*away ^ was_away),
        *turn.awaiting.touched,
        *(turn.before.restored - turn.restored),
    }
    for name in turn.before.awaiting.in_order(concerned) + turn.awaiting.all.in_order(concerned):
        course = turn.courses.get(name)
        undertaking = turn.undertakings.get(name.removeprefix("intents/")) if name.startswith("intents/") else None
        if course is not None:
            nodes = _unconfirmed(turn, name, away, course.unconfirmed)
            turn.put_course(msgspec.structs.replace(course, unconfirmed=nodes))
        elif undertaking is not None:
            nodes = _unconfirmed(turn, name, away, undertaking.unconfirmed)
            turn.undertakings.put(undertaking.intent.name, msgspec.structs.replace(undertaking, unconfirmed=nodes))


def _unconfirmed(turn: Turn, name: str, away: Collection[str], before: tuple[str, ...]) -> tuple[str, ...]:
    awaited = turn.awaiting.get(name) or {}
    if name in turn.restored:
        return tuple(node for node in before if node in awaited)
    return tuple(sorted(node for node in awaited if node in away))


def _has(turn: Turn, node: str, generation: int, parts: Collection[str]) -> bool:
    standing = turn.nodes.get(node)
    return standing is None or standing.has(generation, parts)


def _is_excused(turn: Turn, course: Course, node: str) -> bool:
    """Unreachable nodes hold up neither what is new nor what goes; they do hold up a switch-over and a promise. A node
    that refuses something does not hold up what goes."""
    standing = turn.nodes.get(node)
    if standing is None or (standing.reachable and not (standing.rejected and course.stage == Stage.REMOVING)):
        return False
    return course.stage == Stage.REMOVING or (course.upstream is None and not course.replaces)


def _next_stage(turn: Turn, course: Course) -> bool:
    match course.stage, course.stage.after(Fact.CONFIRMED):
        case Stage.ADDING, stage:
            active = deliver_answer(turn, msgspec.structs.replace(course, stage=stage, replaces=""))
            turn.put_course(active)
            turn.log("course_active", owner=course.plan.owner, plan=course.plan.name)
            if course.upstream is None:
                turn.fresh.add(course.plan.name)
                carried(turn, active)
                abandon(turn, course.replaces, "another plan has taken over", LINGER_S)
            keep_promise(turn, course.plan.name)
            return True
        case Stage.ACTIVE, _ if course.upstream is not None and course.upstream.answer is not None:
            turn.put_course(deliver_answer(turn, course))
            keep_promise(turn, course.plan.name)
            return True
        case Stage.REMOVING, _:
            end(turn, course, Why(Told.UNWANTED, "withdrawn"), linger_s=course.linger_s)
            return True
        case _:
            return False


def described(turn: Turn, event: NodeDescribed) -> None:
    standing = turn.nodes.get(event.node)
    if standing is None or turn.inventory_nodes.get(event.node) is None:
        return
    if event.description.name != event.node:
        reason = f"its agent says it is {event.description.name}: check `agent` of the node's manifest"
        unreachable(turn, NodeUnreachable(node=event.node, reason=reason))
        return
    if not standing.reachable:
        turn.log("node_reachable", node=event.node)
    lasting = _lasting(event.description)
    again = standing.described and standing.reachable and lasting == turn.descriptions.get(event.node)
    turn.descriptions.put(event.node, lasting)
    turn.profiles.put(event.node, event.sizes)
    standing = msgspec.structs.replace(
        standing,
        reachable=True,
        reason="",
        unreachable_s=None,
        described=True,
        description=event.description,
        confirmed=standing.confirmed if again else -1,
    )
    turn.nodes.put(event.node, standing)
    turn.resync.add(event.node)


def _lasting(description: NodeDescription) -> NodeDescription:
    """Without what changes by itself."""
    borders = tuple(
        msgspec.structs.replace(border, carrier=True, up=False, latest_handshake_s=0, received_bytes=0, sent_bytes=0)
        for border in description.borders
    )
    ports = tuple(msgspec.structs.replace(port, carrier=True, faults=()) for port in description.ports)
    return msgspec.structs.replace(description, borders=borders, ports=ports, host_state=HostState())


def unreachable(turn: Turn, event: NodeUnreachable) -> None:
    standing = turn.nodes.get(event.node)
    if standing is None:
        return
    if standing.reachable or standing.reason != event.reason:
        turn.log("node_unreachable", "warning", node=event.node, reason=event.reason)
    since_s = turn.now_s if standing.unreachable_s is None else standing.unreachable_s
    turn.nodes.put(
        event.node,
        msgspec.structs.replace(standing, reachable=False, reason=event.reason, unreachable_s=since_s),
    )


def synced(turn: Turn, event: NodeSynced) -> None:
    standing = turn.nodes.get(event.node)
    if standing is None:
        return
    for deviation in event.deviations:
        _log_deviation(turn, deviation)
    has_all_again = event.generation == standing.generation and standing.rejected  # which an audit was refused
    if event.generation > standing.confirmed or has_all_again:
        turn.log("node_synced", node=event.node, writes=str(event.writes))
        rejected = "" if event.generation == standing.generation else standing.rejected
        if event.generation == standing.generation:
            rested(turn, event.node)
        turn.nodes.put(event.node, msgspec.structs.replace(standing, confirmed=event.generation, rejected=rejected))


def _log_deviation(turn: Turn, deviation: Deviation) -> None:
    turn.log(
        "deviation_repaired",
        "warning",
        node=deviation.node,
        what=deviation.what,
        table=deviation.table,
        detail=deviation.detail,
        owner=deviation.owner,
    )


def rejected(turn: Turn, event: NodeRejected) -> None:
    standing = turn.nodes.get(event.node)
    if standing is None or event.generation != standing.generation:
        return
    turn.log("node_rejected", "error", node=event.node, reason=event.reason)
    turn.nodes.put(event.node, msgspec.structs.replace(standing, rejected=event.reason, refused=event.refused))


def audit(turn: Turn) -> None:
    """Every node that should have all it shall have is read back; one that refused is asked again."""
    if 0 <= turn.now_s - turn.audited_s < AUDIT_S:  # a clock that was set back does not put it off
        return
    turn.audited_s = turn.now_s
    for name, standing in turn.nodes.all.items():
        if not standing.reachable or not standing.described or standing.state is None:
            continue
        had_all = standing.confirmed == standing.generation
        if had_all or standing.rejected:
            turn.effects.append(
                SyncNode(node=name, generation=standing.generation, state=standing.state, audit=had_all)
            )
