"""What an operator drains: all that passes it moves off, make before break, and new paths do not pass it.

    in use ── drain ──▶ drained ── undrain ──▶ in use

To paths it is what a stub is: passed only where nothing else holds what is required. So nothing is cut: what has no
other way stays, and `views/drain_view.py` says why. It is stored, so that a restart changes nothing.
"""

from controller.model.drain import NODES, Drain
from controller.model.event import Reply, SetDrain
from controller.reconcile.intents import pursue
from controller.reconcile.restoration import pass_by, reroute
from controller.reconcile.state import SR_POLICIES
from controller.reconcile.tables import link_key, node_key
from controller.reconcile.transaction import Transaction


def set_drain(transaction: Transaction, event: SetDrain) -> None:
    kind, _, name = event.part.partition("/")
    table = transaction.inventory_nodes if kind == NODES else transaction.links
    if table.get(name) is None:
        transaction.effects.append(Reply(request_id=event.request_id, missing=(0,)))
        return
    done = "drained" if event.is_drained else "undrained"
    if event.is_drained == (transaction.drains.get(event.part) is not None):
        transaction.effects.append(Reply(request_id=event.request_id, results=(f"{event.part} unchanged",)))
        return
    if event.is_drained:
        transaction.drains.put(event.part, Drain(by=event.by.name, at_s=int(transaction.now_s)))
        _move_off(transaction, node_key(name) if kind == NODES else link_key(name))
    else:
        transaction.drains.drop(event.part)
        reroute(transaction)
    transaction.effects.append(Reply(request_id=event.request_id, results=(f"{event.part} {done}",)))


def _move_off(transaction: Transaction, key: str) -> None:
    policies = [f"{SR_POLICIES}{name}" for name in transaction.sr_policies.all.by(key)]
    for name in pass_by(transaction, [*transaction.stitches.all.by(key), *policies]):
        pursue(transaction, transaction.stitches.all[name].plan.owner.removeprefix("intents/"))
