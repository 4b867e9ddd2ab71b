"""Numbers for plans and networks that no controller has given any."""

from collections.abc import Iterable
from typing import Any

import msgspec

from controller.fulfillment.networks import network_keys
from controller.fulfillment.plan_ids import plan_ids, sr_policy_ids
from controller.model.inventory import Inventory
from controller.model.sr_policy import SrPolicy
from controller.model.stitch import Stitch
from controller.reconcile.identifiers import Ended, Identifiers


class Held(dict[str, Any]):
    @property
    def all(self) -> dict[str, Any]:
        return self

    def put(self, name: str, value: Any) -> None:
        self[name] = value

    def drop(self, name: str) -> None:
        del self[name]


def identifiers() -> Identifiers:
    return Identifiers(Held(), Held(), Held(), Held(), Ended(), lambda node, table: 0)


def numbered(
    known: Inventory, stitches: Iterable[Stitch], sr_policies: Iterable[SrPolicy]
) -> tuple[dict[str, int], list[Stitch], dict[str, SrPolicy]]:
    """Numbers of the networks, and the stitches and SR Policies with theirs."""
    given = identifiers()
    networks = given.hold((key for network in known.networks.values() for key in network_keys(network)), 0)
    policies = {}
    for policy in sr_policies:
        first, second = given.hold(sr_policy_ids(policy), 0).values()
        policies[policy.id.name] = msgspec.structs.replace(policy, numbers=(first, second))
    numbered = [msgspec.structs.replace(stitch, ids=given.hold(plan_ids(stitch.plan), 0)) for stitch in stitches]
    return networks, numbered, policies
