"""A finding -> an intent that would mend it, or why there is none. It never permits anything.

Quarantine is all that is proposed so far: to isolate the source, for a time. There is no meter in the pipeline, so no
rate is limited; delays and losses are left to link state and candidate paths.
"""

import ipaddress

from controller.model.finding import NAMED, Finding
from controller.model.intent import Intent, Selector
from controller.model.inventory import Attachment, Inventory, Network

QUARANTINE_S = 600
PRIORITY = 1000


def remediate(finding: Finding, inventory: Inventory, own: str, incident: str) -> tuple[Intent | None, str]:
    if finding.cold:
        return None, "its baseline has not seen enough yet"
    if finding.cause not in NAMED:
        return (
            None,
            f"what mends a {finding.cause} is another path, and paths are chosen by what is measured of links",
        )
    if not finding.source:
        return None, "it has no single source"
    homes = [home for home in _homes(finding, inventory) if home[0].name.split("/")[0] == own]
    if not homes:
        return None, f"{finding.source} is no host of {own}: tell its operator"
    if len(homes) > 1:
        names = " and ".join(sorted(f"{host.name} of {network.name}" for network, host in homes))
        return None, f"{finding.source} is {names}: which one it was is not known"
    [(network, host)] = homes
    prefixes = tuple(sorted(str(ipaddress.ip_network(address)) for address in host.addresses))
    isolated = Selector(network=network.name, prefixes=prefixes)
    return (
        Intent(
            name=f"quarantine-{incident}",
            tenant=network.tenants[0] if network.tenants else network.name.partition("/")[2],
            isolate=isolated,
            priority=PRIORITY,
            lease_s=QUARANTINE_S,
        ),
        "",
    )


def _homes(finding: Finding, inventory: Inventory) -> list[tuple[Network, Attachment]]:
    """Of the source: in networks that the finding touches, if it says which; a network is touched through its name."""
    touched = {owner.removeprefix("networks/") for owner in finding.owners if owner.startswith("networks/")}
    homes = [
        (network, host)
        for network in inventory.networks.values()
        for host in network.attachments
        if finding.source in host.addresses
    ]
    return [home for home in homes if home[0].name in touched] or homes
