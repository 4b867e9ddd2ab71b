"""Links go down and come back: what runs over them takes another way, or ends.

an SR Policy has other paths that hold its color ──▶ all whose traffic takes it move: one entry at each end is written
it has none, other paths hold what is required   ──▶ the plan takes another SR Policy between the same ends
another border                                   ──▶ a new plan takes over (intents), make before break
neither, for an intent of ours                   ──▶ degraded if it may be, by the same border or another; unsatisfiable
neither, for what we carry for others            ──▶ the agreement ends, with the reason

For others "all" is what they allow: a longer path within what we promised changes nothing for them, one beyond it, or
that takes smaller packets, is promised anew in the same agreement (keep_promise), and only taken where it must be.
"""

import itertools
from collections.abc import Iterable

from msgspec.structs import replace

from controller.fulfillment.fabric import around
from controller.fulfillment.graph import Graph
from controller.fulfillment.paths import sr_policy
from controller.fulfillment.place import recolored
from controller.fulfillment.plan_entries import terms_in_force
from controller.fulfillment.shortfall import BINDINGS
from controller.model.intent import Level
from controller.model.inventory import Link
from controller.model.sr_policy import SrPolicy
from controller.model.stitch import ConnectionStatus, Stitch
from controller.model.told import Told, Why
from controller.reconcile.identifiers import NoNumber
from controller.reconcile.link_state import cut, is_back, is_cut
from controller.reconcile.negotiation.agreements import keep_promise, offer_smaller
from controller.reconcile.negotiation.ways import tell
from controller.reconcile.negotiation.withdrawals import give_up, refuse_upstream
from controller.reconcile.state import SR_POLICIES
from controller.reconcile.tables import (
    AROUND,
    WAITS,
    is_unbound,
    link_key,
    named_sr_policies,
    promised_key,
    sr_policy_key,
)
from controller.reconcile.transaction import Transaction

GAIN_US, GAIN_SHARE = 2000, 0.2
"""A path has to be quicker by both before traffic moves to it for what is measured."""
LINKS = "links/"
"""Before the name of one whose ends are awaited."""
MOVED = "sr_policy_moved"
"""In the log: with all whose traffic takes it."""


def reroute(transaction: Transaction) -> None:
    """After links went down or came back. What of ours needs another border, or may prefer it, is left to `pursue`."""
    transaction.fabric = around(transaction.fabric, transaction.graph)
    down = transaction.down.all
    concerned = set(transaction.stitches.all.by(AROUND, *map(link_key, down)))
    for name in transaction.sr_policies.all.by(AROUND, *map(link_key, down)):
        concerned |= _move_sr_policy(transaction, transaction.sr_policies.all[name])
    for name in transaction.stitches.all.in_order(concerned):
        stitch = transaction.stitches.get(name)
        if stitch is None or stitch.stage.leaving:
            continue
        if any(is_back(transaction, link) for link in stitch.plan.around):
            transaction.relieved.add(name)
            stitch = _made_now(transaction, stitch)
        _settle(transaction, stitch)
    transaction.unsettled |= concerned
    if transaction.before.down.keys() - transaction.down.all.keys():
        tell(transaction)
    unsettle(transaction)


def pass_by(transaction: Transaction, names: Iterable[str]) -> list[str]:
    """What waits for a stub (stitches, and `sr_policies/NAME`) takes paths that pass none, where there are such. Our
    own stitches that leave at one, which another border may do without."""
    graph, policies, relieved = transaction.graph, transaction.sr_policies.all, []
    moved: dict[str, set[str]] = {}
    """By SR Policy, stitches of which more is to be done."""
    for name in names:
        stitch = transaction.stitches.get(name)
        named = [name.removeprefix(SR_POLICIES)] if stitch is None else [*named_sr_policies(stitch)]
        for policy in (policies[each] for each in named if each in policies and each not in moved):
            if _passes_stub(graph, policy):
                moved[policy.id.name] = _move_sr_policy(transaction, policy)
        if stitch is not None and _leaves_at_stub(graph, stitch) and stitch.plan.around != graph.around:
            _made_now(transaction, stitch)
            relieved.append(name)
    transaction.relieved |= {*relieved}
    concerned = set().union(*moved.values(), relieved)
    _settle_all(transaction, concerned)
    return relieved


def follow(transaction: Transaction) -> None:
    """After links have other delays or costs by their manifests, or both ends of a new one have what they need for it:
    what is better now over links that nodes know already."""
    before = transaction.before.inventory.links
    waiting = {*transaction.awaiting.all, *transaction.fresh}
    same = {name for name in transaction.links.all if f"{LINKS}{name}" not in waiting}
    if not transaction.joined and all(
        _worth(before[name]) == _worth(transaction.links.all[name]) for name in same & before.keys()
    ):
        return
    transaction.joined.clear()
    concerned: set[str] = set()
    for policy in tuple(transaction.sr_policies.all.values()):
        best = sr_policy(transaction.graph, policy.id)
        ways = [path.links for path in best.candidate_paths] if best is not None else []
        if ways and ways != [path.links for path in policy.candidate_paths] and same.issuperset(itertools.chain(*ways)):
            concerned |= _move_sr_policy(transaction, policy)
    _settle_all(transaction, concerned)


def await_new_links(transaction: Transaction) -> None:
    """Paths in use go over a link once both its ends have confirmed what they need for it."""
    before = transaction.before.inventory.links
    for name in transaction.links.touched:
        link = transaction.links.get(name)
        if link is None:
            transaction.awaiting.drop(f"{LINKS}{name}")
        elif link.b is not None and (name not in before or (before[name].a, before[name].b) != (link.a, link.b)):
            transaction.fresh.add(f"{LINKS}{name}")


def follow_measured(transaction: Transaction) -> None:
    """After other delays of links count: what is in use moves to paths that are better by GAIN, make before break."""
    concerned: set[str] = set()
    graph = transaction.graph
    for policy in tuple(transaction.sr_policies.all.values()):
        best = sr_policy(graph, policy.id)
        if best is not None and _is_worth_moving(graph, policy, best):
            concerned |= _move_sr_policy(transaction, policy)
    _settle_all(transaction, concerned)


def _is_worth_moving(graph: Graph, policy: SrPolicy, best: SrPolicy) -> bool:
    ways, better = ([path.links for path in each.candidate_paths] for each in (policy, best))
    if not better or ways == better or not graph.inventory.links.keys() >= {*itertools.chain(*ways)}:
        return False
    if policy.color.prefer.cost is Level.LOW and best.cost > policy.cost:
        return False
    gained_us = graph.measured_us(ways[0]) - graph.measured_us(better[0])
    return gained_us > max(GAIN_US, GAIN_SHARE * graph.measured_us(ways[0]))


def _settle_all(transaction: Transaction, concerned: set[str]) -> None:
    for name in transaction.stitches.all.in_order(concerned):
        if not (stitch := transaction.stitches.all[name]).stage.leaving:
            _settle(transaction, stitch)
    transaction.unsettled |= concerned


def _worth(link: Link) -> tuple[int, int]:
    return link.delay_us, link.cost


def _passes_stub(graph: Graph, policy: SrPolicy) -> bool:
    """The ends are no matter of its paths."""
    return any(graph.passes_stub(path.nodes[1:-1], path.links) for path in policy.candidate_paths)


def _leaves_at_stub(graph: Graph, stitch: Stitch) -> bool:
    egress = stitch.plan.egress
    return egress is not None and stitch.upstream is None and graph.passes_stub((egress.node,), (egress.border,))


def _made_now(transaction: Transaction, stitch: Stitch) -> Stitch:
    """What it goes around is what there is to go around."""
    stitch = replace(stitch, plan=replace(stitch.plan, around=transaction.graph.around))
    transaction.put_stitch(stitch)
    return stitch


def _move_sr_policy(transaction: Transaction, policy: SrPolicy) -> set[str]:
    """Onto the best paths that there are now, with all whose traffic takes it. Stitches of which more is to be done:
    those without a path, those about which something is promised, and those that need a second path."""
    stitches, name, down = transaction.stitches.all, policy.id.name, transaction.down.all
    best = sr_policy(transaction.graph, policy.id)
    if best is None:
        return set(stitches.by(sr_policy_key(name)))
    promised = stitches.by(promised_key(name))
    moved = replace(policy, candidate_paths=best.candidate_paths, around=transaction.graph.around)
    if moved.candidate_paths == policy.candidate_paths:
        transaction.put_sr_policy(moved)
        return set()
    if not is_cut(policy, down) and any(
        _is_beyond_promise(transaction, stitches[member], policy, moved) for member in promised
    ):
        return set()
    transaction.put_sr_policy(moved)
    transaction.fresh.add(f"{SR_POLICIES}{name}")
    for member in stitches.by(sr_policy_key(name)) if transaction.awaiting.all else ():
        if member in transaction.awaiting.all and member not in transaction.restored:
            transaction.fresh.add(member)  # it waits for other nodes now
    transaction.log(MOVED, sr_policy=name, around=", ".join(moved.around))
    return set(promised) if policy.color.disjoint is None else {*stitches.by(sr_policy_key(name))}


def _is_beyond_promise(transaction: Transaction, stitch: Stitch, policy: SrPolicy, moved: SrPolicy) -> bool:
    """Whether a path that nobody has to take is longer than is allowed, or takes smaller packets than we have told a
    neighbour, where the present one is and does not."""
    limit_us, fabric = _inside_us_max(stitch), transaction.fabric
    is_longer = limit_us is not None and moved.latency_us > max(limit_us, policy.latency_us)
    return is_longer or fabric.inner_mtu(moved) < min(fabric.inner_mtu(policy), _promised_mtu(stitch))


def _settle(transaction: Transaction, stitch: Stitch) -> None:
    """What a stitch needs after the paths that it takes have changed."""
    down, name = transaction.down.all, stitch.plan.name
    lost = cut(stitch.plan, down, transaction.sr_policies.all)
    lost_to_be = cut(stitch.plan_to_be, down, transaction.sr_policies.all)
    if (lost or lost_to_be or is_unbound(stitch.plan)) and move(transaction, stitch, within_latency=True):
        return
    if not lost:
        keep_promise(transaction, name)
        offer_smaller(transaction, name)
    elif stitch.upstream is not None:
        # which links are down is not the neighbour's business
        give_up(
            transaction, stitch, Why(Told.WAY, f"{transaction.own} has no way any more that holds what is required")
        )


def move(transaction: Transaction, stitch: Stitch, *, within_latency: bool) -> bool:
    """Onto paths between the same ends that hold what is required (`within_latency`: the latency too); False: there are
    none."""
    limit_us = _inside_us_max(stitch) if within_latency else None
    moved = recolored(stitch.plan, transaction.graph, limit_us)
    if moved is None:
        return False
    wanted = recolored(stitch.wanted, transaction.graph, limit_us) if stitch.wanted is not None else None
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
        transaction.fresh.add(moved.name)
        transaction.log("course_moved", owner=moved.owner, plan=moved.name, around=", ".join(transaction.graph.around))
    keep_promise(transaction, moved.name)
    offer_smaller(transaction, moved.name)
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
