"""One network behind several edges: how its traffic gets from edge to edge.

At each edge an SR Policy leads to every other one, to an End.DT46 SID of the network: what arrives there is
decapsulated into the network's own context, where it is judged once more. What came from another edge is not sent on
to a third, so that nothing goes in circles while two edges disagree where a host is.

A host answers for itself only on its own link; for hosts behind another edge the edge answers ARP and ND, since it has
a route to them. The route's next hop has port 0, which no node has: it is there for the question, the traffic is
steered.
"""

from collections.abc import Mapping

from controller.fulfillment import numbering
from controller.fulfillment.fabric import (
    Fabric,
    edges,
    encapsulation_bytes,
    encapsulation_entries,
    forward_entry,
    local_sid_entry,
    route_entry,
)
from controller.model.entry import Entry
from controller.model.inventory import Network
from controller.model.sr_policy import SrPolicy
from dataplane.reasons import FABRIC_CLASS, FABRIC_CONTEXT

EDGE_COLOR = 1024
"""Of an SR Policy between edges, plus the network's index: what plans have is less."""


def edge_legs(network: Network, edge_numbers: Mapping[str, int], fabric: Fabric) -> dict[str, dict[str, int]]:
    """Edge -> other edge that a path leads to -> the leg to it. `edge_numbers`: of the network's edges."""
    here = edges(network)
    return {
        near: {
            far: numbering.edge_leg(edge_numbers[far])
            for far in here
            if far in edge_numbers and _sr_policy(fabric, near, far) is not None
        }
        for near in here
    }


def edge_entries(
    network: Network, index: int, edge_numbers: Mapping[str, int], fabric: Fabric
) -> dict[str, tuple[Entry, ...]]:
    """What the edges of a network need to send to each other. `index`: the network's."""
    owner = f"networks/{network.name}"
    entries: dict[str, list[Entry]] = {}
    for near, legs in edge_legs(network, edge_numbers, fabric).items():
        here = entries.setdefault(near, [])
        for far, leg in legs.items():
            policy = _sr_policy(fabric, near, far)
            assert policy is not None, "else there is no leg"
            lists, sizes = [], []
            for candidate, path in enumerate(policy.candidate_paths):
                compiled = fabric.compile_path(path, reverse=near != policy.headend)
                sid = numbering.network_sid(fabric.locators[far], index, candidate)
                lists.append((*compiled.segments, sid))
                sizes.append(compiled.mtu - encapsulation_bytes(len(lists[-1])))
                if compiled.last_hop is not None:
                    node, hop = compiled.last_hop
                    entries.setdefault(node, []).append(route_entry(FABRIC_CONTEXT, (sid, 128), hop, owner))
            here += encapsulation_entries(
                leg,
                numbering.edge_sr_policy(edge_numbers[far]),
                lists,
                source=numbering.sid(fabric.locators[near], 0),
                dscp=0,
                color=EDGE_COLOR + index,
                inner_mtu=min(sizes),
                owner=owner,
            )
        if legs:
            here += _arrivals(fabric.locators[near], index, owner)
            here += _proxied(network, near, index, owner)
    return {node: tuple(ones) for node, ones in entries.items()}


def _sr_policy(fabric: Fabric, near: str, far: str) -> SrPolicy | None:
    return fabric.edge_policies.get((min(near, far), max(near, far)))


def _arrivals(locator: int, index: int, owner: str) -> list[Entry]:
    params = (("context", index), ("answer_leg", 0))  # by the network's own rules
    sids = (numbering.network_sid(locator, index, candidate) for candidate in (0, 1))
    return [local_sid_entry(FABRIC_CLASS, sid, "end_dt46", params, owner) for sid in sids]


def _proxied(network: Network, node: str, index: int, owner: str) -> list[Entry]:
    """Routes to the hosts behind other edges."""
    here = {address for one in network.attachments if one.node == node for address in one.addresses}
    there = {address for one in network.attachments for address in one.addresses} - here
    hop = numbering.BEHIND_ANOTHER_EDGE
    routes = [route_entry(index, (numbering.address(address), 128), hop, owner) for address in sorted(there)]
    return [forward_entry(hop, 0, 0, 0, owner), *routes]
