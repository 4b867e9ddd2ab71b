"""What another domain is told of why it does not get something, or no longer: one of these texts, and by whom.

They say what its operator can do, and nothing of what is in the domain that refuses: which addresses, intents, rules
and tables those are stands in that one's own log and events, under the id of the agreement.
"""

from enum import StrEnum
from typing import NamedTuple

from controller.model.agreement import version_objection

HEARD_LENGTH = 200
"""Of what others say, so much is kept and shown."""


class Told(StrEnum):
    INVALID = "the offer, or the mandate in it, is not as it must be"
    SIGNATURE = "the signature is not of the key that is pinned for who sent it: compare keys with its operator"
    KEY = "no key of the origin is pinned there, or another one: its operator pins it with `stitch domain add`"
    TIME = "the offer or its mandate has expired, begins later, or lasts too long: compare the clocks of both domains"
    CIRCLE = "the traffic would go in a circle, or pass a domain that it must not"
    TRUST = "the border is not trusted there as much as is required"
    RELEASE = "its release cannot do what is needed: its operator upgrades it"
    POLICY = "its policy does not allow it: whom and what it takes, through whom, with which dscp, for how long"
    DESTINATION = "the destination is not there, or has other addresses or ports"
    CONFLICT = "it does not go with what is there already"
    ROOM = "it has no room for it now"
    SHARE = "who asks has as much there as one neighbour may have"
    WAY = "it has no way to the destination that holds what is required"
    SPENT = "that agreement has ended or was refused before: make a new one"
    CHANGED = "another revision or other terms were offered before: make a new agreement"
    HELD_OFF = "its operator has ended it, and does not take it again yet"
    UNWANTED = "it is not wanted any more"
    EXPIRED = "the agreement has expired"
    LOST = "it cannot be kept any more"
    BEYOND = "a domain further on refuses it"


class Why(NamedTuple):
    """Why something is refused or ends."""

    told: Told
    detail: str
    """For us."""


def heard(text: str) -> str:
    """What another domain says, as it is kept here."""
    return "".join(character if character.isprintable() else "?" for character in text[:HEARD_LENGTH])


def passed_on(reason: str, peer: str) -> tuple[Told, str]:
    """What we tell others of what we have `heard` of `peer`, and who said so first."""
    for told in Told:
        if reason == told or reason.endswith(f": {told}"):
            return told, reason[: -len(told)].removesuffix(": ") or peer
    return Told.RELEASE if reason.endswith(version_objection(1)) else Told.BEYOND, peer
