"""Whether what carries a connection of an intent is what is wanted."""

from collections.abc import Collection

from controller.fulfillment.plan_paths import is_too_slow, unprotected
from controller.fulfillment.waypoints import passed
from controller.model.plan import Plan
from controller.model.requirements import Connection
from controller.model.stitch import ConnectionStatus, IntentRecord, Stitch
from controller.reconcile.bundles import is_of
from controller.reconcile.link_state import cut
from controller.reconcile.transaction import Transaction

RETRY_S = 60
"""How often a connection that is unsatisfiable or refused is tried again."""


def may_be_tried(connection_status: ConnectionStatus, now_s: float) -> bool:
    """Later than the longest, the clock was set back."""
    return not now_s < connection_status.retry_s <= now_s + RETRY_S


def ends(connection: Connection) -> tuple[str, str]:
    return connection.source_network, connection.destination_network


def is_good(transaction: Transaction, stitch: Stitch, intent_record: IntentRecord, connection: Connection) -> bool:
    """What is wanted, as it is wanted."""
    sr_policies = transaction.sr_policies.all
    held = not is_too_slow(stitch, sr_policies) and not unprotected(stitch.plan, sr_policies)
    return (
        is_right(stitch.plan, intent_record, connection)
        and held
        and passes_what_is_up(stitch.plan, transaction.services_down.all)
        and not cut(stitch.plan, transaction.down.all, sr_policies)
    )


def eased(
    intent_record: IntentRecord, connection: Connection, connection_status: ConnectionStatus
) -> Connection | None:
    """As what goes on without what can no longer be held (`on violation degrade`); None: nothing may, or there is
    nothing to go without."""
    may = connection_status.was_carried and intent_record.intent.on_violation == "degrade"
    less = connection.eased
    return less if may and less != connection else None


def passes_what_is_up(plan: Plan, services_down: Collection[str]) -> bool:
    """The services that it is to pass are, and are up, or are passed by as is allowed."""
    via = passed(plan.connection, services_down)
    return plan.via == via and not any(waypoint.service in services_down for waypoint in via)


def is_right(plan: Plan, intent_record: IntentRecord, connection: Connection) -> bool:
    shares = not plan.bundle or (intent_record.expires_s is None and is_of(plan.bundle, intent_record.intent.tenant))
    return plan.connection == connection and plan.priority == intent_record.intent.priority and shares
