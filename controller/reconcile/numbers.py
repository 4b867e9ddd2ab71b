"""Numbers of own networks at their edges, and of plans of a release that gave them none."""

from collections.abc import Mapping

import msgspec

from controller.fulfillment.fabric import edges
from controller.fulfillment.networks import network_keys
from controller.fulfillment.plan_ids import plan_ids, sr_policy_ids
from controller.reconcile.identifiers import FOR_GOOD_S, signed
from controller.reconcile.transaction import Transaction

_FORMER = ("network ", "edge ", "rests ")
"""Counters of release 0.1."""


def number_networks(transaction: Transaction) -> None:
    """An edge keeps its numbers as long as it is one, whatever others come and go. Raises NoNumber."""
    wanted = {
        key: None
        for name, network in sorted(transaction.networks.all.items())
        if name.split("/")[0] == transaction.own
        for key in network_keys(network)
    }
    gone = {key: number for key, number in transaction.numbers.all.items() if key not in wanted}
    if gone:
        _rest(transaction, gone)
    transaction.identifiers.release(gone)
    for key in gone:
        transaction.numbers.drop(key)
    new = [key for key in wanted if transaction.numbers.get(key) is None]
    for key, number in transaction.identifiers.hold(new, transaction.now_s).items():
        transaction.numbers.put(key, number)


def _rest(transaction: Transaction, gone: Mapping[str, int]) -> None:
    """Until all edges that a network had are without it: its hosts at one are led to its numbers at the others."""
    for name, network in transaction.before.inventory.networks.items():
        if name.split("/")[0] == transaction.own:
            numbers = {key: gone[key] for key in network_keys(network) if key in gone}
            transaction.ended.add(numbers, edges(network), FOR_GOOD_S)


def number_plans(transaction: Transaction) -> None:
    """After an upgrade. SIDs that neighbours have signed stay as they are."""
    for name in [name for name in transaction.counters.all if name in ("slot", "edge") or name.startswith(_FORMER)]:
        transaction.counters.drop(name)
    for policy in tuple(transaction.sr_policies.all.values()):
        if not policy.is_numbered:
            first, second = transaction.identifiers.hold(sr_policy_ids(policy), transaction.now_s).values()
            transaction.put_sr_policy(msgspec.structs.replace(policy, numbers=(first, second)))
    for stitch in tuple(transaction.stitches.all.values()):
        if stitch.ids:
            continue
        known = dict(signed(stitch))
        transaction.identifiers.adopt(known)
        rest = (key for key in plan_ids(stitch.plan) if key not in known)
        ids = transaction.identifiers.hold(rest, transaction.now_s) | known
        transaction.stitches.put(stitch.plan.name, msgspec.structs.replace(stitch, ids=ids, slots=()))
