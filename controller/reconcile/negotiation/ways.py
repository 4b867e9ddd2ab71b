"""Ways that come back: who was refused for want of one is told, and asks again then.

    an offer is refused, or an agreement ends, for want of a way ──▶ its offeror is remembered
    a link or border is in use again, or there is another ─────────▶ it is told once, and forgotten
    it hears so ──▶ it asks again for what was refused so, and tells whom it has refused so itself

Who is told has been refused since it was told last, so this goes in no circle. It is said once: where it gets lost,
the next try comes as it would have without it.
"""

import math

from msgspec.structs import replace

from controller.fulfillment.negotiate import sealed
from controller.model.agreement import WAYS, WayBack
from controller.model.event import Send
from controller.reconcile.tables import no_way_key
from controller.reconcile.transaction import Transaction, understands

PAUSE_S = 5
"""Between two times that one neighbour has us ask again."""


def tell(transaction: Transaction) -> None:
    """All whom we have refused for want of a way, that there may be one."""
    if not transaction.without_way:
        return
    envelope = sealed(WayBack(issued_s=int(transaction.now_s)), transaction.keys)
    for peer in sorted(transaction.without_way):
        if understands(transaction, peer, WAYS):
            message_id = f"way_back:{envelope.digest}:{peer}:{transaction.now_s}"
            transaction.effects.append(Send(peer=peer, message_id=message_id, message=envelope))
    transaction.without_way.clear()


def take_up(transaction: Transaction) -> None:
    """What neighbours have said of theirs in this step, when all that they refused in it is known."""
    for peer in sorted(transaction.ways_back):
        due_s = _due_s(transaction, peer)
        transaction.way_back_s.put(peer, due_s)
        borders = {link.name for link in transaction.links.all.values() if link.domain == peer}
        for name in transaction.intent_records.all.by(no_way_key(peer)):
            intent_record = transaction.intent_records.all[name]
            connection_statuses = tuple(
                replace(
                    connection_status,
                    no_way=tuple(other for other in connection_status.no_way if other != peer),
                    excluded=tuple(border for border in connection_status.excluded if border not in borders),
                    retry_s=min(connection_status.retry_s, math.ceil(due_s)),
                )
                if peer in connection_status.no_way
                else connection_status
                for connection_status in intent_record.connection_statuses
            )
            transaction.intent_records.put(name, replace(intent_record, connection_statuses=connection_statuses))
    if transaction.ways_back:
        transaction.ways_back.clear()
        tell(transaction)


def _due_s(transaction: Transaction, peer: str) -> float:
    """When what it refused is asked again."""
    now_s, last_s = transaction.now_s, transaction.way_back_s.get(peer)
    if last_s is None or last_s > now_s + PAUSE_S:  # the clock was set back
        return now_s
    return last_s if last_s > now_s else max(now_s, last_s + PAUSE_S)
