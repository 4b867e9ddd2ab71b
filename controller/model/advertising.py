"""What is known of advertisements: what neighbours have said, what they were told, and what was ignored."""

import enum
import math

import msgspec

from controller.model.agreement import Envelope, OfferedNetwork, OfferedService, Route
from controller.model.intent import Value


class Ignored(enum.StrEnum):
    """Why a route that a neighbour says counts for nothing."""

    PATH = "path"
    """It does not begin with the neighbour, is too long, or has a domain twice."""
    CIRCLE = "circle"
    """We are on it."""
    UNREADABLE = "unreadable"
    OWNER = "owner"
    """The advertisement is of another domain than the path leads to, or offers what is another domain's."""
    UNPINNED = "unpinned"
    """No key of its owner is pinned here."""
    SIGNATURE = "signature"
    """Not of its owner: forged or altered."""
    CARRIER = "carrier"
    """The owner gave it to another neighbour of its."""
    ONWARD = "onward"
    """The owner does not want it to be passed on."""
    OLDER = "older"
    """A newer one of the same owner is known: replayed, or not yet heard there."""
    TIME = "time"
    """Expired, or of the future."""
    INVALID = "invalid"
    """Names, prefixes, addresses or ports that are none, or not of hosts."""
    GATEWAYS = "gateways"
    """Links that are not between that neighbour and us."""
    TOO_MANY = "too many"


class Heard(Value, frozen=True, kw_only=True):
    """A route as a neighbour says it."""

    peer: str
    route: Route
    edition: int
    expires_s: int
    """Both of its advertisement."""
    damped_s: float = 0.0
    """Unix time from which it is used: it has changed too often."""

    def keys(self) -> tuple[str, str]:
        return from_key(self.peer), of_key(self.route.owner)

    def due_s(self) -> float:
        return min(self.expires_s, self.damped_s or math.inf)


def from_key(peer: str) -> str:
    return f"from {peer}"


def of_key(owner: str) -> str:
    return f"of {owner}"


def heard_name(peer: str, owner: str) -> str:
    return f"{peer} {owner}"


def heard_owner(name: str) -> str:
    return name.rpartition(" ")[2]


class Offered(Value, frozen=True, kw_only=True):
    """What of ours one neighbour is told."""

    networks: tuple[OfferedNetwork, ...] = ()
    services: tuple[OfferedService, ...] = ()
    onward: bool = False


class OwnAdvertisements(Value, frozen=True, kw_only=True):
    """Of one edition."""

    offered: dict[str, Offered] = msgspec.field(default_factory=dict)
    """By neighbour, and so is the next."""
    signed: dict[str, Envelope] = msgspec.field(default_factory=dict)
    expires_s: int = 0


class Telling(Value, frozen=True, kw_only=True):
    """Where we are with one neighbour. Its mappings are not changed, but replaced."""

    wanted: dict[str, Route] = msgspec.field(default_factory=dict)
    """What it is to know, by owner."""
    said: dict[str, Route] = msgspec.field(default_factory=dict)
    """What it has been told."""
    rest: str | None = ""
    """It is to be told everything, of owners after this one; None: only what changes."""
    number: int = 0
    """Of the last message to it."""
    under_way: str = ""
    """Message that it has not taken yet."""
    spoke_s: float = 0.0
    due_s: float = 0.0
    """Nothing but bad news before."""
    failing_s: float | None = None
    """Since when it could not be reached."""
    silent: bool = False
    """For so long that nobody knows whether what it said is still so."""
    heard_number: int = 0
    instance: str = ""
    """Of its controller."""
    ignored: dict[str, int] = msgspec.field(default_factory=dict)
    """How many of its routes, by Ignored, since our start."""
