"""What nodes probe: each candidate path of their SR Policies, and each of their links (STAMP, RFC 8762).

A probe goes along a path to its end and back by the same links, to its sender's own End: it takes the SIDs that traffic
takes, in both directions, and nobody but its sender has to do anything for it. Who finds a path dead tells its other
end, over another path.
"""

import ipaddress
from collections.abc import Collection, Iterable

import msgspec

from controller.fulfillment.containers import whole
from controller.fulfillment.fabric import Fabric
from controller.model.sr_policy import CandidatePath, SrPolicy
from dataplane.host_api import FarEnd, Probe
from dataplane.reasons import MAX_SEGMENTS

CHOICE_MS = 10
"""Where there is another candidate path to take: three that are missed are 30 ms."""
SINGLE_MS = 100
LINK_MS = 250


def path_probes(fabric: Fabric, policy: SrPolicy, headend: str, number: int) -> tuple[Probe, ...]:
    """Of an SR Policy from one of its ends, where it has this number. Slots are as in `sr_policy_entries`."""
    order, far = (1, policy.endpoint) if headend == policy.headend else (-1, policy.headend)
    paths, far_paths = _taken(fabric, policy, headend), _taken(fabric, policy, far)
    interval_ms = CHOICE_MS if len(paths) > 1 else SINGLE_MS
    probes = []
    for slot, path in enumerate(paths):
        nodes, links = path.nodes[::order], path.links[::order]
        probe = _probe(fabric, nodes, links, interval_ms, number, slot)
        if probe is None:
            continue
        if len(paths) > 1 and policy.is_numbered and path in far_paths:
            far_end = _far_end(fabric, nodes, links, policy.number_at(far), far_paths.index(path))
            probe = msgspec.structs.replace(probe, far_end=far_end)
        probes.append(probe)
    return tuple(probes)


def _taken(fabric: Fabric, policy: SrPolicy, headend: str) -> list[CandidatePath]:
    """By slot."""
    return [
        path
        for path in policy.candidate_paths
        if not fabric.compile_path(path, reverse=headend != policy.headend).containers.is_too_long
    ]


def _far_end(fabric: Fabric, nodes: tuple[str, ...], links: tuple[str, ...], number: int, slot: int) -> FarEnd:
    endpoint = fabric.locators[nodes[-1]]
    return FarEnd(
        sid=str(ipaddress.IPv6Address(endpoint)),
        containers=_texts(whole([*fabric.steps(nodes, links), (endpoint, 0)])),
        liveness_group=number,
        slot=slot,
    )


def _texts(containers: Iterable[int]) -> tuple[str, ...]:
    return tuple(str(ipaddress.IPv6Address(container)) for container in containers)


def link_probes(fabric: Fabric, nodes: Collection[str] | None = None) -> dict[str, tuple[Probe, ...]]:
    """Of each of these nodes (None: of all) those of its links to nodes of the domain."""
    asked = fabric.locators if nodes is None else nodes
    probes: dict[str, list[Probe]] = {}
    links = (
        (name, link, link.b)
        for name, link in fabric.links.items()
        if link.b is not None and (link.a.node in asked or link.b.node in asked)
    )
    for name, link, other in sorted(links, key=lambda item: item[0]):
        if link.a.node not in fabric.locators or other.node not in fabric.locators:
            continue
        for near, far in ((link.a.node, other.node), (other.node, link.a.node)):
            if near not in asked:
                continue
            probe = _probe(fabric, (near, far), (name,), LINK_MS)
            probes.setdefault(near, []).extend([probe] if probe is not None else [])
    return {node: tuple(of_node) for node, of_node in probes.items()}


def _probe(
    fabric: Fabric,
    nodes: tuple[str, ...],
    links: tuple[str, ...],
    interval_ms: int,
    group: int = 0,
    slot: int | None = None,
) -> Probe | None:
    """None: there and back are more SIDs than an SRH may have, or an OpenFlow switch is on the way, which forwards what
    a headend sends and nothing that comes back to it."""
    if not fabric.switches.isdisjoint(nodes):
        return None
    headend = fabric.locators[nodes[0]]
    there_and_back = fabric.steps((*nodes, *nodes[-2::-1]), (*links, *links[::-1]))
    containers = whole([*there_and_back, (headend, 0)])
    if len(containers) > MAX_SEGMENTS:
        return None
    return Probe(
        port=fabric.ports[links[0], nodes[0]],
        source=str(ipaddress.IPv6Address(headend)),
        containers=_texts(containers),
        interval_ms=interval_ms,
        liveness_group=group,
        slot=slot,
    )
