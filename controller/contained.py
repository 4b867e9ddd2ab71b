"""Events from outside whose step raised: a fault of ours, which ends neither the controller nor anything of others."""

import hashlib
import traceback
from collections import Counter
from collections.abc import Mapping
from typing import Self

import msgspec

from controller.model.event import (
    Apply,
    Decide,
    Delete,
    Discovered,
    EndAgreement,
    Event,
    Found,
    LoadPolicy,
    Measured,
    MessageReceived,
    MessageSent,
    NodeDescribed,
    NodeRejected,
    NodeSynced,
    NodeUnreachable,
    PeerMet,
    Renew,
    SetDrain,
)
from controller.model.intent import Value

REMEMBERED = 1024
"""Digests of events that were logged."""
_SHOWN = 500


class Raised(Value, frozen=True, kw_only=True):
    source: str
    """Who sent it: `domains/NAME`, `nodes/NAME` or `clients`; or `history`."""
    kind: str
    digest: str
    """Of the event, the same whenever the same comes again."""
    fault: str
    where: str
    """The innermost lines of the traceback."""

    @classmethod
    def of(cls, event: Event | None, error: Exception) -> Self:
        """None: of the history."""
        frames = traceback.extract_tb(error.__traceback__)[-3:]
        return cls(
            source=_source(event) if event is not None else "history",
            kind=type(event).__name__ if event is not None else "",
            digest=_digest(event if event is not None else repr(error)),
            fault=f"{type(error).__name__}: {error}"[:_SHOWN],
            where=" < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames)),
        )

    @property
    def reason(self) -> str:
        """For who sent it."""
        return f"this controller failed to work on it, and has done nothing; its log says more ({self.digest[:16]})"

    @property
    def fields(self) -> Mapping[str, str]:
        """For the log."""
        return {
            "source": self.source,
            "kind": self.kind,
            "digest": self.digest,
            "reason": self.fault,
            "where": self.where,
            "advice": "this is a fault of netstitch: report it with this line; the state is as it was before",
        }


class Contained:
    """How many there were, and which were logged."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """By source."""
        self.newest: dict[str, Raised] = {}
        """By source."""
        self._logged: dict[str, None] = {}

    def is_new(self, raised: Raised) -> bool:
        """Counts it; whether it is to be logged."""
        self.counts[raised.source] += 1
        self.newest[raised.source] = raised
        if raised.digest in self._logged:
            return False
        if len(self._logged) >= REMEMBERED:
            del self._logged[next(iter(self._logged))]
        self._logged[raised.digest] = None
        return True


def _source(event: Event) -> str:
    match event:
        case MessageReceived(peer=peer) | MessageSent(peer=peer) | PeerMet(peer=peer):
            return f"domains/{peer}"
        case NodeDescribed(node=node) | NodeUnreachable(node=node) | NodeSynced(node=node) | NodeRejected(node=node):
            return f"nodes/{node}"
        case Discovered(node=node) | Measured(node=node):
            return f"nodes/{node}"
        case Found():
            return "assurance"
        case _:
            return "clients"


def _digest(event: Event | str) -> str:
    match event:
        case Apply():
            event = msgspec.structs.replace(event, request_id="", revision=0)
        case Delete() | Renew() | SetDrain() | EndAgreement() | LoadPolicy() | Decide():
            event = msgspec.structs.replace(event, request_id="")
    try:
        content = msgspec.json.encode(event)
    except (TypeError, ValueError, OverflowError, RecursionError):  # perhaps that is what is wrong with it
        content = repr(event).encode("utf-8", "backslashreplace")
    return hashlib.sha256(content).hexdigest()
