"""A finding -> what would mend it, or why nothing does. It never permits anything that was not permitted.

    what somebody does (NAMED)     quarantine: an intent that isolates the source's host for a time
    a link that is slow or loses   another path: the link is taken out of use for a time, as a drain does

There is no meter in the pipeline, so no rate is limited.
"""

import ipaddress
from collections.abc import Callable, Collection

from controller.model.finding import NAMED, Cause, Finding
from controller.model.intent import Intent, Selector
from controller.model.inventory import Attachment, Inventory, Network

QUARANTINE_S = 600
PRIORITY = 1000
SUSPENDED_MAX = 64
"""Intents that one may suspend."""

Remedy = Intent | str
"""A quarantine; or the link that other paths are taken around, as `links/NAME`."""


def remediate(
    finding: Finding,
    inventory: Inventory,
    own: str,
    incident: str,
    *,
    touched: Collection[str],
    serving: Callable[[Network, Attachment], tuple[str, ...]],
    lasts_s: int = QUARANTINE_S,
) -> tuple[Remedy | None, str]:
    """`touched`: networks whose traffic it is, as far as that is known: several may have a host with the source's
    address. `serving`: names of the intents of the network's tenant that carry something for a host."""
    if finding.cold:
        return None, "its baseline has not seen enough yet"
    if finding.cause in (Cause.DELAY_SHIFT, Cause.LOSS):
        if finding.entity.startswith("links/"):
            return finding.entity, ""
        return None, "which link of the path it is has not been found"
    if finding.cause not in NAMED:
        return None, f"nothing is known that mends a {finding.cause}"
    if not finding.source:
        return None, "it has no single source"
    homes = [home for home in _homes(finding, inventory, touched) if home[0].name.split("/")[0] == own]
    if not homes:
        return None, f"{finding.source} is no host of {own}: tell its operator"
    if len(homes) > 1:
        names = " and ".join(sorted(f"{host.name} of {network.name}" for network, host in homes))
        return None, f"{finding.source} is {names}: which one it was is not known"
    [(network, host)] = homes
    suspended = serving(network, host)
    if len(suspended) > SUSPENDED_MAX:
        return None, f"{len(suspended)} intents carry something for {host.name}, more than one may suspend"
    prefixes = tuple(sorted(str(ipaddress.ip_network(address)) for address in host.addresses))
    return (
        Intent(
            name=f"quarantine-{incident}",
            tenant=tenant_of(network),
            isolate=Selector(network=network.name, prefixes=prefixes),
            suspends=suspended,
            priority=PRIORITY,
            lease_s=lasts_s,
        ),
        "",
    )


def tenant_of(network: Network) -> str:
    return network.tenants[0] if network.tenants else network.name.partition("/")[2]


def _homes(finding: Finding, inventory: Inventory, touched: Collection[str]) -> list[tuple[Network, Attachment]]:
    homes = [
        (network, host)
        for network in inventory.networks.values()
        for host in network.attachments
        if finding.source in host.addresses
    ]
    return [home for home in homes if home[0].name in touched] or homes
