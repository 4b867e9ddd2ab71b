"""Offers as a domain of the simulator would sign them, honest or not."""

from msgspec.structs import replace

from controller.fulfillment.negotiate import sealed
from controller.model.agreement import Envelope, Mandate, Message, Refusal, Terms, opened, opened_mandate
from controller.model.told import Told
from tests.simulator import SimulatedKeys, World


def signed(statement: Message | Mandate, by: str) -> Envelope:
    return sealed(statement, SimulatedKeys(by))


def said(world: World, kind: str, sender: str = "", receiver: str = "") -> list[Message]:
    """What was delivered, oldest first."""
    return [opened(envelope) for envelope in world.heard(kind, sender, receiver)]


def refused(world: World, domain: str) -> str:
    """Why `domain` refused the newest that it refused, as it says it at home; what others hear of it says no more than
    it may. Empty: it has refused nothing."""
    heard = [refusal.reason for refusal in said(world, "refusal", domain) if isinstance(refusal, Refusal)]
    assert set(heard) <= set(Told), heard
    logged = [line.fields["reason"] for line in world.controllers[domain].logs if line.event == "offer_refused"]
    return logged[-1] if heard and logged else ""


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
