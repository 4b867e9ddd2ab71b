"""SR Policies as people ask for them: `stitch get paths`. One for each way between two nodes that intents' traffic asks
for, whoever's it is; it serves both directions."""

from collections.abc import Iterator
from typing import Any

import msgspec

from controller.model.resource import Resource
from controller.model.sr_policy import CandidatePath, SrPolicy
from controller.reconcile.state import State
from controller.views.intent_status import path_measurements, shown_measurement


def resources(state: State, now_s: float) -> Iterator[Resource]:
    """Named as the owners of their entries: `HEADEND/NUMBER`, from the end that is first by name."""
    owners: dict[str, set[str]] = {}
    for stitch in state.stitches.values():
        for id in stitch.plan.sr_policies:
            owners.setdefault(id.name, set()).add(stitch.plan.owner)
    for name, policy in sorted(state.sr_policies.items(), key=lambda named: (named[1].headend, named[1].numbers)):
        yield Resource(
            kind="Path",
            metadata={"name": f"{policy.headend}/{policy.numbers[0]}"},
            spec={
                "headend": policy.headend,
                "endpoint": policy.endpoint,
                "require": msgspec.to_builtins(policy.color),
            },
            status=_status(state, policy) | {"owners": sorted(owners.get(name, ()))},
        )


def _slower(state: State, path: CandidatePath) -> dict[str, float]:
    """What it takes now, by what is measured of its links."""
    links = [state.inventory.links[name] for name in path.links if name in state.inventory.links]
    if not any(link.name in state.delays for link in links):
        return {}
    return {"measured_latency_ms": sum(state.delays.get(link.name, link.delay_us) for link in links) / 1000}


def _status(state: State, policy: SrPolicy) -> dict[str, Any]:
    waiting = set(policy.unconfirmed)
    status: dict[str, Any] = {
        "nodes": [list(path.nodes) for path in policy.candidate_paths],
        "candidate_paths": [
            {
                "preference": path.preference,
                "nodes": list(path.nodes),
                "links": list(path.links),
                "latency_ms": path.latency_us / 1000,
                "cost": path.cost,
                "down": sorted(link for link in path.links if link in state.down),
            }
            | _slower(state, path)
            for path in policy.candidate_paths
        ],
        "numbers": dict(zip((policy.headend, policy.endpoint), policy.numbers, strict=True)),
    }
    measured = {
        head: [shown_measurement(measurement) for measurement in path_measurements(state, policy, head)]
        for head in (policy.headend, policy.endpoint)
    }
    if any(measured.values()):
        status["measured"] = measured
    if policy.around:
        status["around"] = list(policy.around)
    return status | ({"waiting_for": sorted(waiting)} if waiting else {})
