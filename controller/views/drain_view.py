"""How far a drain has come: what still moves, for which nodes that waits, and what cannot move, with the reason."""

from collections.abc import Iterator
from typing import Any

from controller.model.drain import NODES
from controller.model.stitch import Stitch
from controller.reconcile.state import SR_POLICIES, State
from controller.reconcile.tables import link_key, node_key, sr_policy_key

NAMED_MAX = 3
"""Of those who are served, in one line."""


def drain_status(state: State, part: str) -> dict[str, Any]:
    """Of `nodes/NAME` or `links/NAME`; nothing where it is not drained."""
    drain = state.drains.get(part)
    if drain is None:
        return {}
    moving, waiting_for, served = _moving(state, part), set[str](), dict[str, set[str]]()
    for name in moving:
        waiting_for |= (state.awaiting.get(name) or {}).keys()
    for why, owner in _left(state, part):
        served.setdefault(why, set()).add(owner)
    phase = "Draining" if moving else "PartlyDrained" if served else "Drained"
    said = {"phase": phase, "by": drain.by, "since_s": drain.at_s}
    said |= {"moving": len(moving), "waiting_for": sorted(waiting_for)} if moving else {}
    said |= {"left": [f"{why}: {_names(owners)}" for why, owners in sorted(served.items())]} if served else {}
    return {"drain": said}


def _names(owners: set[str]) -> str:
    first = sorted(owners)[:NAMED_MAX]
    return ", ".join(first) + (f" and {len(owners) - len(first)} more" if len(owners) > len(first) else "")


def _moving(state: State, part: str) -> set[str]:
    """What goes around it by now and is not confirmed yet; and what is there until another takes over."""
    awaited = state.awaiting
    policies = {
        f"{SR_POLICIES}{name}"
        for name, policy in state.sr_policies.items()
        if part in policy.around and f"{SR_POLICIES}{name}" in awaited
    }
    return policies | {stitch.plan.name for stitch in _ending_at(state, part) if _is_followed(state, stitch)}


def _is_followed(state: State, stitch: Stitch) -> bool:
    """It is about to end, or another is made that shall take over."""
    if stitch.stage.leaving:
        return True
    others = (state.stitches[name] for name in state.stitches.by(stitch.plan.owner))
    asked = stitch.plan.connection.flows
    return any(
        other.serial > stitch.serial and not other.stage.leaving and other.plan.connection.flows == asked
        for other in others
        if stitch.upstream is None
    )


def _left(state: State, part: str) -> Iterator[tuple[str, str]]:
    """Why something stays, and whom it serves."""
    kind, _, part_name = part.partition("/")
    for name in state.sr_policies.by(node_key(part_name) if kind == NODES else link_key(part_name)):
        policy = state.sr_policies[name]
        passed = (path.nodes[1:-1] if kind == NODES else path.links for path in policy.candidate_paths)
        if not any(part_name in names for names in passed):
            continue
        between = f"between {policy.headend} and {policy.endpoint}"
        if part in policy.around:
            why = f"no other way {between} holds what is required"
        else:
            why = f"any other way {between} takes longer, or smaller packets, than a neighbour was promised"
        for stitch_name in state.stitches.by(sr_policy_key(name)):
            yield why, state.stitches[stitch_name].plan.owner
    for stitch in _ending_at(state, part):
        if not _is_followed(state, stitch):
            yield from ((why, stitch.plan.owner) for why in _ends(stitch, kind, part_name))


def _ending_at(state: State, part: str) -> Iterator[Stitch]:
    kind, _, name = part.partition("/")
    for stitch_name in state.stitches.by(node_key(name) if kind == NODES else link_key(name)):
        yield state.stitches[stitch_name]


def _ends(stitch: Stitch, kind: str, name: str) -> Iterator[str]:
    plan = stitch.plan
    for way, why in (
        (plan.ingress, "it is the neighbour who chose to come in over border {}"),
        (plan.egress, "no other border than {} leads there as is required"),
    ):
        if way is not None and name in (way.node if kind == NODES else way.border,):
            yield why.format(way.border)
    connection = plan.connection
    if kind == NODES:
        for network, hosts in (
            (connection.source_network, connection.sources),
            (connection.destination_network, connection.destinations),
        ):
            if any(host.node == name for host in hosts):
                yield f"hosts of {network} are attached to it"
