"""Which services that traffic is to pass are down: a port of theirs has no carrier, or there is no such port.

As with links a cut counts at once, and that one is back when it has lasted for HOLD_S. Of a node that has not said what
it is nothing is known.
"""

import math
from collections.abc import Iterable, Mapping

from controller.model.inventory import Network, Service
from controller.reconcile.link_state import HOLD_S, lasted
from controller.reconcile.state import NodeStanding
from controller.reconcile.tables import service_key
from controller.reconcile.transaction import Transaction


def faults(service: Service, networks: Mapping[str, Network], nodes: Mapping[str, NodeStanding]) -> tuple[str, ...]:
    """Its ports that are known to have no carrier, or not to be there, in words."""
    network = networks.get(service.name.rpartition("/")[0])
    found = []
    for attachment in network.attachments if network is not None else ():
        standing = nodes.get(attachment.node)
        if attachment.name not in (service.through or ()) or standing is None or standing.description is None:
            continue
        carriers = [port.carrier for port in standing.description.ports if port.number == attachment.port]
        if standing.description.tells_ports and not any(carriers):
            found.append(f"{attachment.node} port {attachment.port} ({attachment.name})")
    return tuple(found)


def look(transaction: Transaction) -> bool:
    """At all of them, after nodes or the inventory have said something else; whether one goes down."""
    passed = {name: each for name, each in transaction.services.all.items() if each.through is not None}
    for name in [name for name in transaction.services_down.all if name not in passed]:
        transaction.services_down.drop(name)
    changed = False
    for name, service in passed.items():
        without = faults(service, transaction.networks.all, transaction.nodes.all)
        until_s = transaction.services_down.get(name)
        if without:
            if until_s is None:
                changed = True
                transaction.log("service_down", "warning", service=name, without_carrier=", ".join(without))
            transaction.services_down.put(name, math.inf)
        elif until_s == math.inf:
            transaction.services_down.put(name, transaction.now_s + HOLD_S)
    return changed


def release(transaction: Transaction) -> bool:
    """Repairs that have lasted count; whether there are any."""
    over = lasted(transaction.services_down.all, transaction.now_s)
    for name in over:
        transaction.services_down.drop(name)
        transaction.log("service_up", service=name)
    return bool(over)


def concerned(transaction: Transaction, services: Iterable[str]) -> set[str]:
    """Intents whose traffic is to pass one of these."""
    return set(transaction.intent_records.all.by(*map(service_key, services)))
