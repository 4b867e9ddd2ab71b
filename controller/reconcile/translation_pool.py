"""What is taken of our pool of addresses for other networks: held while an intent or an agreement of ours needs it,
then left to rest, so that nothing that still knows it by this address meets another network there."""

from collections.abc import Iterable

from msgspec.structs import replace

from controller.fulfillment.aliases import give, held, held_by, needed, pool_of
from controller.model.agreement import Alias
from controller.model.inventory import Aliases
from controller.model.requirements import Connection
from controller.model.stitch import expired
from controller.reconcile.tables import network_key
from controller.reconcile.transaction import Transaction

REST_S = 600


def hold(transaction: Transaction, connections: Iterable[Connection]) -> None:
    for new in tuple(held_by(transaction.inventory, connections)):
        transaction.aliases.put(new.name, new)


def given(
    transaction: Transaction, network: str, other: str, prefixes: tuple[str, ...], *, all_of_them: bool = False
) -> tuple[Alias, ...] | str:
    """Under which prefixes a network of ours is to know these of another domain's, which are held for it; or the one
    for which there is no room. `all_of_them`: also those of which it has no address itself."""
    inventory = transaction.inventory
    pool = pool_of(inventory)
    wanted = needed(inventory, network, other, prefixes, new=bool(pool))
    pairs = give(inventory, pool, network, other, prefixes if all_of_them and pool else wanted)
    if not isinstance(pairs, str) and (new := held(inventory, network, other, pairs)) is not None:
        transaction.aliases.put(new.name, new)
    return pairs


def settle(transaction: Transaction) -> None:
    """At the end of a step: what nothing needs any more rests, and what has rested is free."""
    for name, aliases in tuple(transaction.aliases.all.items()):
        if aliases.until_s is not None and transaction.now_s >= aliases.until_s:
            transaction.aliases.drop(name)
        elif aliases.until_s is None and _may_be_over(transaction, aliases) and not _is_needed(transaction, aliases):
            transaction.aliases.put(name, replace(aliases, until_s=int(transaction.now_s) + REST_S))


def _may_be_over(transaction: Transaction, aliases: Aliases) -> bool:
    """Something about one of the two networks was put or dropped in this step."""
    if transaction.before.inventory.aliases.get(aliases.name) != aliases:
        return True
    for before, table in (
        (transaction.before.intent_records, transaction.intent_records),
        (transaction.before.stitches, transaction.stitches),
    ):
        if any(name in before for name in table.touched):
            return True
    return False


def _is_needed(transaction: Transaction, aliases: Aliases) -> bool:
    key = network_key(aliases.network)
    for name in transaction.intent_records.all.by(key):
        intent_record = transaction.intent_records.all[name]
        if not expired(intent_record) and any(_uses(each, aliases) for each in intent_record.requirements.connections):
            return True
    for name in transaction.stitches.all.by(key):
        stitch = transaction.stitches.all[name]
        if _uses(stitch.plan.connection, aliases) or _uses(stitch.plan_to_be.connection, aliases):
            return True
    return False


def _uses(connection: Connection, aliases: Aliases) -> bool:
    ends = connection.source_network, connection.destination_network
    if ends == (aliases.network, aliases.other):
        return bool(connection.destination_aliases)
    return ends == (aliases.other, aliases.network) and bool(connection.source_aliases)
