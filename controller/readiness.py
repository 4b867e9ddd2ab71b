"""Whether the nodes can do what a network or a link of the inventory says, and what they lack where they cannot."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from controller.fulfillment.fabric import edges
from controller.fulfillment.ports import attachment_objection, end_objection
from controller.model.intent import Phase
from controller.model.inventory import Link, Network
from controller.model.requirements import Host
from controller.reconcile.state import State
from dataplane.reasons import IPV6_LEAST_MTU


def network_phase(state: State, network: Network) -> dict[str, Any]:
    """Phase and conditions of an own network; it is Installing as long as a part of it cannot be used."""
    reasons = [
        f"host {attachment.name}: {reason}"
        for attachment in network.attachments
        if (reason := attachment_objection(attachment.node, attachment.port, state.descriptions.get(attachment.node)))
    ]
    names = [f"networks/{network.name}", *(f"ports/{attachment.port}" for attachment in network.attachments)]
    status = _phase(reasons, state, edges(network), names)
    status["conditions"] += [{"type": "NoIPv6", "reason": reason} for reason in _without_ipv6(state, network)]
    return status


def _without_ipv6(state: State, network: Network) -> Iterator[str]:
    """Between which of its edges."""
    if not any(":" in prefix for prefix in network.prefixes):
        return
    for near, far in itertools.combinations(sorted(edges(network)), 2):
        policy = state.fabric.edge_policies.get((near, far))
        if policy is not None and (mtu := state.fabric.inner_mtu(policy)) < IPV6_LEAST_MTU:
            yield f"between {near} and {far}: {too_small_for_ipv6(mtu)}"


def too_small_for_ipv6(mtu: int) -> str:
    return (
        f"IPv6 is not carried: the links take packets of {mtu} octets inside, and IPv6 needs {IPV6_LEAST_MTU} "
        "(RFC 8200 §5); raise the MTU of the smallest link"
    )


def link_phase(state: State, link: Link) -> dict[str, Any]:
    ends = [end for end in (link.a, link.b) if end is not None]
    reasons = [reason for end in ends if (reason := end_objection(end, state.descriptions.get(end.node)))]
    return _phase(reasons, state, [end.node for end in ends], [f"links/{link.name}"])


def lacking(state: State, hosts: Iterable[Host]) -> list[str]:
    """Of hosts that an intent is about, those whose node has no such port."""
    return [
        f"host {host.name}: {reason}"
        for host in hosts
        if (reason := attachment_objection(host.node, host.port, state.descriptions.get(host.node)))
    ]


def _phase(reasons: list[str], state: State, nodes: Iterable[str], names: list[str]) -> dict[str, Any]:
    """What a node that went away has confirmed all of is Active there, as it is of intents."""
    away = []
    for node in nodes:
        standing = state.nodes.get(node)
        if standing is None or (standing.described and standing.reachable and not standing.refuses(names)):
            continue
        if not standing.reachable and 0 <= standing.confirmed == standing.generation:
            away.append(f"node {node} unreachable: {standing.reason}; its state is as last confirmed")
        elif not standing.reachable:
            reasons.append(f"node {node} unreachable: {standing.reason}")
        elif not standing.described:
            reasons.append(f"node {node} has not said yet what it has")
        else:
            reasons.append(f"node {node} refused its state: {standing.why(names)}")
    phase = str(Phase.INSTALLING if reasons else Phase.ACTIVE)
    conditions = [{"type": phase, "reason": reason} for reason in reasons]
    return {
        "phase": phase,
        "conditions": conditions + [{"type": "NodeUnreachable", "reason": reason} for reason in away],
    }
