"""One network behind several edges: how its traffic gets from edge to edge.

At each edge an SR Policy leads to every other one, shared by all networks that are behind both, to an End.DT46 SID of
the network: what arrives there is decapsulated into its VRF, in a policy class of its own, where it is judged once
more.

A host answers for itself only on its own link; for hosts behind another edge the edge answers ARP and ND, since it has
a route to them. The route's next hop has port 0, which no node has: it is there for the question, the traffic is
steered.
"""

from collections.abc import Iterator, Mapping

from controller.fulfillment import numbering
from controller.fulfillment.fabric import (
    Arrival,
    Fabric,
    encapsulate_entry,
    forward_entry,
    route_entry,
    service_entry,
)
from controller.fulfillment.networks import NetworkIds
from controller.model.entry import OwnedEntry
from controller.model.inventory import Network
from controller.model.sr_policy import SrPolicy
from dataplane.reasons import FABRIC_CLASS


def reached(fabric: Fabric, near: str, ids: NetworkIds) -> tuple[str, ...]:
    """Other edges of a network that a path leads to."""
    return tuple(to_edge.far for to_edge in ids.to_edges if _sr_policy(fabric, near, to_edge.far) is not None)


def edge_sr_policies(fabric: Fabric, near: str, ids: NetworkIds) -> Iterator[tuple[int, SrPolicy]]:
    """With their numbers."""
    for to_edge in ids.to_edges:
        if (policy := _sr_policy(fabric, near, to_edge.far)) is not None:
            yield to_edge.sr_policy, policy


def edge_entries(network: Network, near: str, ids: Mapping[str, NetworkIds], fabric: Fabric) -> tuple[OwnedEntry, ...]:
    """What one edge of a network needs to send to the others and to take what comes from them. `ids`: by edge."""
    owner = f"networks/{network.name}"
    mine = ids[near]
    entries: list[OwnedEntry] = []
    for to_edge in mine.to_edges:
        policy = _sr_policy(fabric, near, to_edge.far)
        if policy is not None and to_edge.far in ids:
            sid = numbering.sid(fabric.locators[to_edge.far], ids[to_edge.far].function)
            mtu = fabric.inner_mtu(policy)
            entries.append(encapsulate_entry(to_edge.forwarding_class, to_edge.sr_policy, sid, 0, mtu, owner))
    if not entries:
        return ()
    sid = numbering.sid(fabric.locators[near], mine.function)
    into = Arrival(vrf=mine.vrf, policy_class=mine.edges)
    return (*entries, service_entry(FABRIC_CLASS, sid, into, 0, owner), *_proxied(network, near, mine.vrf, owner))


def _sr_policy(fabric: Fabric, near: str, far: str) -> SrPolicy | None:
    return fabric.edge_policies.get((min(near, far), max(near, far)))


def _proxied(network: Network, node: str, vrf: int, owner: str) -> Iterator[OwnedEntry]:
    """Routes to the hosts behind other edges."""
    here = {
        address for attachment in network.attachments if attachment.node == node for address in attachment.addresses
    }
    there = {address for attachment in network.attachments for address in attachment.addresses} - here
    hop = numbering.BEHIND_ANOTHER_EDGE
    yield forward_entry(hop, 0, 0, 0, owner)
    for address in sorted(there):
        yield route_entry(vrf, (numbering.address(address), 128), hop, owner)
