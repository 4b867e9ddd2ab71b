"""Offers as a domain of the simulator would sign them, honest or not."""

from msgspec.structs import replace

from controller.fulfillment.negotiate import sealed
from controller.model.agreement import Envelope, Mandate, Message, Terms, opened, opened_mandate
from tests.simulator import SimulatedKeys, World


def signed(statement: Message | Mandate, by: str) -> Envelope:
    return sealed(statement, SimulatedKeys(by))


def said(world: World, kind: str, sender: str = "", receiver: str = "") -> list[Message]:
    """What was delivered, oldest first."""
    return [opened(envelope) for envelope in world.heard(kind, sender, receiver)]


def first_offer(world: World, sender: str = "transit") -> Terms:
    terms = said(world, "offer", sender)[0]
    assert isinstance(terms, Terms)
    return terms


def mandated(terms: Terms, by: str = "", **changes: object) -> Terms:
    """With a mandate that says something else; signed by its origin, unless `by` says who signs it."""
    mandate = replace(opened_mandate(terms.mandate), **changes)
    return replace(terms, mandate=signed(mandate, by or mandate.origin))


def asked_for(terms: Terms, **changes: object) -> Terms:
    """Other terms, which the origin asks for too."""
    both = {name: value for name, value in changes.items() if name in Mandate.__struct_fields__ and name != "id"}
    return mandated(replace(terms, **changes), **both)
