"""Numbers for plans and networks that no controller has given any."""

from collections.abc import Iterable
from typing import Any

import msgspec

from controller.fulfillment.networks import network_keys
from controller.fulfillment.plan_ids import plan_ids
from controller.model.course import Course
from controller.model.inventory import Inventory
from controller.reconcile.identifiers import Identifiers


class Held(dict[str, Any]):
    @property
    def all(self) -> dict[str, Any]:
        return self

    def put(self, name: str, value: Any) -> None:
        self[name] = value

    def drop(self, name: str) -> None:
        del self[name]


def identifiers() -> Identifiers:
    return Identifiers(Held(), Held(), Held(), Held(), lambda node, table: 0)


def numbered(known: Inventory, courses: Iterable[Course]) -> tuple[dict[str, int], list[Course]]:
    """Numbers of the networks, and the courses with theirs."""
    given = identifiers()
    networks = given.hold((key for one in known.networks.values() for key in network_keys(one)), 0)
    return networks, [msgspec.structs.replace(course, ids=given.hold(plan_ids(course.plan), 0)) for course in courses]
