"""Networks and services of other domains, as these advertise them: in the inventory, beside what operators have said.

What an operator has said of a name wins. What is not advertised any more goes, unless an intent names it: that keeps
its requirements, and finds no way by what is gone.
"""

from collections.abc import Collection, Sequence

from msgspec.structs import replace

from controller.fulfillment.translate import translate
from controller.model.inventory import Network, Service
from controller.model.requirements import Requirements, Unsatisfiable
from controller.model.stitch import expired
from controller.reconcile.intents import undertake
from controller.reconcile.tables import network_key
from controller.reconcile.transaction import Transaction
from dataplane import addressing

Things = Sequence[Network | Service]


def find_learnt(transaction: Transaction) -> None:
    """After a start."""
    for name in (*transaction.networks.all, *transaction.services.all):
        if _is_learnt(transaction, name):
            owner = name.split("/")[0]
            transaction.learnt.put(owner, (transaction.learnt.get(owner) or frozenset()) | {name})


def learn(transaction: Transaction, owner: str, ways: Sequence[Things]) -> bool:
    """What is heard of `owner`, by the most preferred way first; whether the inventory is another now."""
    things: dict[str, Network | Service] = {}
    for thing in (thing for way in ways for thing in way):
        things.setdefault(thing.name, thing)
    before = transaction.learnt.get(owner) or frozenset()
    changed: list[str] = []
    for name, thing in things.items():
        if isinstance(thing, Network):
            network = transaction.networks.get(name)
            if network is None or (network.learnt and network != thing):
                transaction.networks.put(name, thing)
                changed.append(name)
        elif _fits(transaction.networks.get(name.rpartition("/")[0]), thing):
            service = transaction.services.get(name)
            if service is None or (service.learnt and service != thing):
                transaction.services.put(name, thing)
                changed.append(name)
    homeless = {name for name in before & things.keys() if not _has_home(transaction, name)}
    changed += _unlearn(transaction, homeless | (before - things.keys()))
    kept = frozenset(name for name in before | things.keys() if _is_learnt(transaction, name))
    transaction.learnt.put(owner, kept)
    transaction.unadvertised -= before | things.keys()
    transaction.unadvertised |= kept - things.keys()
    for name in changed:
        transaction.log("learnt" if name in things else "unlearnt", name=name)
    if changed:
        _retranslate(transaction, {"/".join(name.split("/")[:2]) for name in changed})
    return bool(changed)


def _has_home(transaction: Transaction, name: str) -> bool:
    service = transaction.services.get(name)
    return service is None or _fits(transaction.networks.get(name.rpartition("/")[0]), service)


def _fits(home: Network | None, service: Service) -> bool:
    """What an operator has said of its network may be less than what is advertised."""
    prefixes = tuple(map(addressing.prefix, home.prefixes)) if home is not None else ()
    addresses = map(addressing.address, service.addresses)
    return all(any(address in prefix for prefix in prefixes) for address in addresses)


def _is_learnt(transaction: Transaction, name: str) -> bool:
    thing = transaction.networks.get(name) or transaction.services.get(name)
    return thing is not None and thing.learnt


def _unlearn(transaction: Transaction, names: Collection[str]) -> list[str]:
    """What nobody says any more; what of it an intent names is looked at again later."""
    gone: list[str] = []
    for name in sorted(names, key=lambda name: (-name.count("/"), name)):  # services before their networks
        table = transaction.networks if name.count("/") == 1 else transaction.services
        is_home = any(service.startswith(f"{name}/") for service in transaction.services.all)
        if _is_learnt(transaction, name) and not is_home and not _is_named(transaction, name):
            table.drop(name)
            gone.append(name)
    return gone


def _is_named(transaction: Transaction, name: str) -> bool:
    """By an intent: a service, or a network itself."""
    network = "/".join(name.split("/")[:2])
    records = map(transaction.intent_records.all.__getitem__, transaction.intent_records.all.by(network_key(network)))
    if name == network:
        return any(True for _ in records)
    return any(
        flow.destination == name
        for intent_record in records
        for connection in intent_record.requirements.connections
        for flow in connection.flows
    )


def _retranslate(transaction: Transaction, networks: set[str]) -> None:
    """Intents to what is advertised otherwise now. What does not fit any more is not met, and says why."""
    for name in transaction.intent_records.all.by(*map(network_key, sorted(networks))):
        intent_record = transaction.intent_records.all[name]
        if expired(intent_record):
            continue
        chosen = intent_record.requirements.selections
        translated = translate(
            intent_record.intent, transaction.rule_engine, transaction.inventory, intent_record.added, chosen
        )
        if not isinstance(translated, Requirements):
            unmet = Unsatisfiable(binding="destination", message=translated[0].message)
            translated = replace(intent_record.requirements, unmet=(unmet,))
        if translated != intent_record.requirements:
            undertake(transaction, intent_record.intent, translated, intent_record.added)
