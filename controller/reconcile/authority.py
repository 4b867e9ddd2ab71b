"""What the holder of a token may ask for: whose intents, and which networks and services these may name."""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from controller.fulfillment.waypoints import meant
from controller.model.access import EVERYBODY, Principal, Role, acts_for
from controller.model.intent import Intent
from controller.model.inventory import Inventory, Network
from controller.model.stitch import IntentRecord


def overreach(
    by: Principal,
    intents: Mapping[str, Intent],
    intent_records: Mapping[str, IntentRecord],
    inventory: Inventory,
    own: str,
) -> str:
    """Why `by` may not apply `intents`; empty: it may. `intent_records` is what is in force."""
    if by.role == Role.READER:
        return f"token {by.name} is a reader's: it changes nothing"
    if by.tenants is None:
        return ""
    for name, intent in intents.items():
        if not by.concerns(intent.tenant):
            return f"intent {name}: token {by.name} may act for {', '.join(by.tenants)}, not for {intent.tenant}"
        if name in intent_records and not by.concerns(intent_records[name].intent.tenant):
            return f"intent {name} is another tenant's: use another name"
        for asked in _beyond(intent, inventory, own):
            return f"intent {name}: tenant {intent.tenant} may not {asked}; an administrator lists it in its `tenants`"
    return ""


def trespass(by: Principal, names: Iterable[str], intent_records: Mapping[str, IntentRecord]) -> str:
    """Why `by` may not withdraw or renew intents; empty: it may, as far as they are there."""
    for name in names:
        if name in intent_records and not by.concerns(intent_records[name].intent.tenant):
            return f"intent {name} is another tenant's: it is not for token {by.name} to change"
    return ""


def _beyond(intent: Intent, inventory: Inventory, own: str) -> Iterator[str]:
    """What its tenant may not name. What is not there is for others to find."""
    selected = [intent.isolate, *(allow.source for allow in intent.allow)]
    for selector in filter(None, selected):
        if not speaks_for(intent.tenant, selector.network, inventory):
            yield f"speak for network {selector.network}"
    for to in (
        *(allow.to for allow in intent.allow if allow.to),
        *(
            service
            for name in intent.via
            for selector in filter(None, selected)
            for service in meant(name, selector.network, inventory, own)
        ),
    ):
        if not may_reach(intent.tenant, to, inventory, own):
            yield f"lead traffic to {to}"
    for test in intent.tests:
        ends = (test.source.network, "/".join(test.to.split("/")[:2]))
        if not any(speaks_for(intent.tenant, end, inventory) for end in ends):
            yield f"test what happens between {ends[0]} and {ends[1]}"


def speaks_for(tenant: str, network: str, inventory: Inventory) -> bool:
    known = inventory.networks.get(network)
    return acts_for(tenant, network, known.tenants if known is not None else ())


def may_reach(tenant: str, to: str, inventory: Inventory, own: str) -> bool:
    """A network or service. Of another domain: that domain decides."""
    service = inventory.services.get(to)
    return (
        to.split("/")[0] != own
        or (service is not None and not {EVERYBODY, tenant}.isdisjoint(service.tenants))
        or speaks_for(tenant, "/".join(to.split("/")[:2]), inventory)
    )


def namable(by: Principal, inventory: Inventory, own: str) -> Inventory:
    """With the networks and services only that `by` may name."""
    if by.tenants is None:
        return inventory
    tenants = by.tenants

    def reached(name: str) -> bool:
        return any(may_reach(tenant, name, inventory, own) for tenant in tenants)

    services = {name: service for name, service in inventory.services.items() if reached(name)}
    homes = {name.rpartition("/")[0] for name in services}
    networks = {name: network for name, network in inventory.networks.items() if name in homes or reached(name)}
    return msgspec.structs.replace(inventory, networks=networks, services=services)


def visible(by: Principal, inventory: Inventory, own: str) -> Inventory:
    """The same, and of our networks that `by` does not speak for no hosts."""
    named = namable(by, inventory, own)
    if by.tenants is None:
        return named
    tenants = by.tenants

    def seen(network: Network) -> Network:
        spoken_for = any(acts_for(tenant, network.name, network.tenants) for tenant in tenants)
        return network if spoken_for else msgspec.structs.replace(network, attachments=())

    return msgspec.structs.replace(named, networks={name: seen(network) for name, network in named.networks.items()})
