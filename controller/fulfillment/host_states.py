"""What nodes shall have beside entries: gateways, tunnels to neighbours and probes (RFC 8762)."""

from collections.abc import Collection, Mapping

import immutables
import msgspec

from controller.fulfillment.contribution import Policy
from controller.fulfillment.fabric import Fabric
from controller.fulfillment.networks import gateways
from controller.fulfillment.plan_entries import Border, tunnels
from controller.fulfillment.probes import link_probes
from controller.model.inventory import Inventory
from controller.model.tunnel_keys import BorderKeys
from dataplane.host_api import HostState, NodeDescription, Probe

PathProbes = immutables.Map[str, immutables.Map[int, tuple[Probe, ...]]]
"""Of the candidate paths of SR Policies, by headend and number."""
TunnelEnd = tuple[Border, str, BorderKeys | None]
"""With the neighbour's SID block, and the keys that were renewed."""


class Probing:
    """Lives for one change; `all` is the value that stays."""

    def __init__(self, before: PathProbes, descriptions: Mapping[str, NodeDescription]) -> None:
        self.all = before
        self.nodes: set[str] = set()
        """Which probe other paths than before."""
        self.descriptions = descriptions

    def put(self, policy: Policy, probes: tuple[Probe, ...]) -> None:
        node, number = policy
        before = self.all.get(node, immutables.Map())
        if probes == before.get(number, ()):
            return
        self.all = self.all.set(node, before.set(number, probes) if probes else before.delete(number))
        self.nodes.add(node)

    def put_into(self, hosts: Mapping[str, HostState]) -> Mapping[str, HostState]:
        """With the paths that they probe now; links as before."""
        probed = {
            node: msgspec.structs.replace(hosts[node], probes=self.of(node, _of_links(hosts[node])))
            for node in self.nodes & hosts.keys()
        }
        return {**hosts, **probed} if probed else hosts

    def clear(self) -> None:
        self.all = immutables.Map()

    def of(self, node: str, of_links: tuple[Probe, ...]) -> tuple[Probe, ...]:
        """Those of links first, then by number of the SR Policy, as many as the node can send."""
        description = self.descriptions.get(node)
        numbers = self.all.get(node, immutables.Map())
        probes = (*of_links, *(probe for number in sorted(numbers) for probe in numbers[number]))
        return probes[: description.probes_max] if description is not None else ()


def host_states(
    inventory: Inventory,
    fabric: Fabric,
    probing: Probing,
    known: Mapping[str, HostState],
    ends: Mapping[str, list[TunnelEnd]],
    concerned: Collection[str] | None,
    told: Collection[str] = (),
) -> Mapping[str, HostState]:
    """`known`: as it was; the same values where nothing is other. `concerned`: nodes; None: all, and nothing is
    known of links. `told`: those of them that say other than they did."""
    networks = [inventory.networks[name] for name in sorted(inventory.networks)]
    of_links = link_probes(fabric, None if concerned is None else told)
    hosts = dict(known) if concerned is not None else {}
    for node in inventory.nodes if concerned is None else concerned:
        before = known.get(node)
        links = of_links.get(node, ()) if node not in hosts or node in told else _of_links(hosts[node])
        host = HostState(
            gateways=gateways(networks, node, probing.descriptions),
            tunnels=tunnels(ends.get(node, [])).get(node, ()),
            probes=probing.of(node, links),
        )
        hosts[node] = before if before is not None and before == host else host
    return hosts


def _of_links(host: HostState) -> tuple[Probe, ...]:
    return tuple(probe for probe in host.probes if probe.slot is None)
