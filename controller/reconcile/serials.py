"""Who came first: one count of our intents and of what other domains agreed with us."""

import msgspec

from controller.fulfillment.acl import MAX_SERIAL
from controller.reconcile.transaction import Transaction


def next_serial(transaction: Transaction) -> int:
    """Higher than all in use. Once in a million they run out; what is there is then numbered anew from 1, in the same
    order, and its entries are written once more with the priorities that follow from it."""
    if (transaction.counters.get("owner") or 0) >= MAX_SERIAL:
        _number_anew(transaction)
    return transaction.number("owner")


def _number_anew(transaction: Transaction) -> None:
    used = {intent_record.serial for intent_record in transaction.intent_records.all.values()} | {
        stitch.plan.serial for stitch in transaction.stitches.all.values()
    }
    numbers = {serial: number for number, serial in enumerate(sorted(used), 1)}
    for name, intent_record in tuple(transaction.intent_records.all.items()):
        transaction.intent_records.put(
            name, msgspec.structs.replace(intent_record, serial=numbers[intent_record.serial])
        )
    for stitch in tuple(transaction.stitches.all.values()):
        plan = msgspec.structs.replace(stitch.plan, serial=numbers[stitch.plan.serial])
        transaction.put_stitch(msgspec.structs.replace(stitch, plan=plan))
    transaction.counters.put("owner", len(numbers))
