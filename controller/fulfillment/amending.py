"""A plan with other flows: those that are taken away are gone at once, those that come are there when it is signed."""

from collections.abc import Collection

from msgspec.structs import replace

from controller.fulfillment.numbering import overlaps
from controller.model.agreement import Flow
from controller.model.plan import Plan
from controller.model.requirements import Host


def narrowed(plan: Plan, flows: Collection[Flow]) -> Plan:
    """With those of its flows that are among these. It keeps its paths, so that its numbers stay what they are."""
    kept = tuple(flow for flow in plan.connection.flows if flow in flows)
    if len(kept) == len(plan.connection.flows):
        return plan
    prefixes = {prefix for flow in kept for prefix in flow.destination_prefixes}
    destinations = tuple(host for host in plan.connection.destinations if _is_within(host, prefixes))
    return replace(plan, connection=replace(plan.connection, flows=kept, destinations=destinations))


def widened(plan: Plan, addition: Plan) -> Plan:
    """`addition`, which leads to all that `plan` leads to and may lead further: what `plan` has keeps its place and so
    its numbers."""
    left = {(policy.headend, policy.endpoint): policy for policy in addition.sr_policies}
    kept = [left.pop((policy.headend, policy.endpoint), policy) for policy in plan.sr_policies]
    return replace(addition, name=plan.name, sr_policies=(*kept, *left.values()))


def _is_within(host: Host, prefixes: Collection[str]) -> bool:
    return any(overlaps(address, prefixes) for address in host.addresses)
