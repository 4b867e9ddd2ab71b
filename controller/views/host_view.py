"""Hosts: those that networks have, and candidates, which nodes hear at ports that no network has a host at (ARP,
neighbour discovery). A candidate is shown and reaches nobody, until an operator has a network adopt it."""

import ipaddress
from collections.abc import Collection, Iterator

from controller.model.discovery import HeardHost, Source
from controller.model.inventory import Network
from controller.model.phases import ATTACHED, CANDIDATE
from controller.model.resource import Resource
from controller.reconcile.state import State


def resources(state: State, now_s: float) -> Iterator[Resource]:
    """Those of networks are named NETWORK/HOST, candidates NODE/PORT/MAC."""
    own = [network for network in state.inventory.networks.values() if network.name.split("/")[0] == state.own]
    for network in own:
        for host in network.attachments:
            yield Resource(
                kind="Host",
                metadata={"name": f"{network.name}/{host.name}", "labels": dict(host.labels)},
                spec={
                    "network": network.name,
                    "node": host.node,
                    "port": host.port,
                    "addresses": list(host.addresses),
                },
                status={"phase": ATTACHED, "source": str(Source.OPERATOR)},
            )
    attached = {(host.node, host.port) for network in own for host in network.attachments}
    for node, standing in state.nodes.items():
        for heard in standing.heard_hosts:
            if (node, heard.port) not in attached:
                yield _candidate(node, heard, own)


def _candidate(node: str, heard: HeardHost, own: Collection[Network]) -> Resource:
    return Resource(
        kind="Host",
        metadata={"name": f"{node}/{heard.port}/{heard.mac}"},
        spec={"node": node, "port": heard.port, "mac": heard.mac, "addresses": list(heard.addresses)},
        status={
            "phase": CANDIDATE,
            "source": str(Source.DISCOVERY),
            "heard_since_s": heard.since_s,
            "fits": [network.name for network in sorted(own, key=lambda one: one.name) if _fits(heard, network)],
        },
    )


def _fits(heard: HeardHost, network: Network) -> bool:
    """Whether the network's prefixes have all the addresses that it says."""
    prefixes = [ipaddress.ip_network(prefix) for prefix in network.prefixes]
    return bool(heard.addresses) and all(
        any(ipaddress.ip_address(address) in prefix for prefix in prefixes) for address in heard.addresses
    )
