"""Since when each resource is as it is: a number that grows with everything that can be seen to change.

Nothing is kept of what changed, only when: who asks for the changes since a revision gets every resource that changed
later as it is now, and those that are gone. A look finds what has changed since the look before; so nobody who does not
look pays for it. Only one looks at a kind at a time.
"""

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from controller.errors import TooOld
from controller.model.resource import Resource

GAP = 100
"""What is being applied has a number that is so much greater than the newest, so that what is seen until it is stored
gets lower ones."""
PER_START = 10**9
"""Revisions of one run of a controller. Each start begins a new such block, so that they grow over restarts too."""
GONE_MAX = 10_000
"""Of each kind, so many that are gone are remembered."""
CHANGES_BY_ITSELF: Mapping[str, frozenset[str]] = {
    "agreements": frozenset({"expires_in_s"}),
    "tunnels": frozenset({"received_bytes", "sent_bytes", "latest_handshake_s"}),
    "intents": frozenset({"measured"}),
    "paths": frozenset({"measured"}),
    "links": frozenset({"measured", "said"}),  # what of it counts and what differs are fields of their own
}
"""Fields of a status that no revision follows."""
NEVER_CHANGE = frozenset({"events"})


class _Seen(msgspec.Struct, frozen=True):
    digest: int
    revision: int
    metadata: dict[str, Any]


class Revisions:
    def __init__(self, starts: int) -> None:
        """`starts`: how often this controller was started, this time included."""
        self.newest = starts * PER_START
        self._first = self.newest
        self._known: dict[str, dict[str, _Seen]] = {}
        """By kind and name."""
        self._gone: dict[str, deque[Resource]] = {}
        self._forgotten: dict[str, int] = {}
        self._counting = threading.Lock()
        """Looks are in threads; only who holds it changes `newest`."""

    def reserve(self, place: int) -> int:
        """For what is applied now, as the `place`th of those that are stored together; see `settle`."""
        return self.newest + GAP + place

    def settle(self, revision: int) -> None:
        """What was reserved is stored, and will be seen; or what has been seen."""
        with self._counting:
            self.newest = max(self.newest, revision)

    def look(self, kind: str, resources: Iterable[Resource]) -> list[Resource]:
        """All that there are of a kind, each with its revision."""
        known = self._known.setdefault(kind, {})
        now = self.newest + 1
        marked = [self._mark(kind, resource, now, known) for resource in resources]
        for name in known.keys() - {str(resource.metadata["name"]) for resource in marked}:
            self._remember(kind, known.pop(name), now)
        return marked

    def look_at(self, kind: str, name: str, resource: Resource | None) -> Resource | None:
        """One of a kind, with its revision; None: there is none of that name."""
        known = self._known.setdefault(kind, {})
        now = self.newest + 1
        if resource is not None:
            return self._mark(kind, resource, now, known)
        if (seen := known.pop(name, None)) is not None:
            self._remember(kind, seen, now)
        return None

    def gone(self, kind: str, since: int) -> list[Resource]:
        """Those that are gone since a revision: their metadata, and status {"deleted": true}. Raises TooOld."""
        if not max(self._first, self._forgotten.get(kind, 0)) <= since <= self.newest:
            raise TooOld(f"what has changed since revision {since} is not known any more: list again, then watch")
        return [resource for resource in self._gone.get(kind, ()) if resource.metadata["revision"] > since]

    def _mark(self, kind: str, resource: Resource, now: int, known: dict[str, _Seen]) -> Resource:
        name = str(resource.metadata["name"])
        seen = known.get(name)
        if seen is not None and kind in NEVER_CHANGE:
            return msgspec.structs.replace(resource, metadata=seen.metadata)
        digest = _digest(kind, resource)
        if seen is None or seen.digest != digest:
            seen = known[name] = _Seen(digest, now, {**resource.metadata, "revision": now})
            self.settle(now)
        return msgspec.structs.replace(resource, metadata=seen.metadata)

    def _remember(self, kind: str, seen: _Seen, now: int) -> None:
        gone = self._gone.setdefault(kind, deque())
        if len(gone) == GONE_MAX:
            self._forgotten[kind] = int(gone.popleft().metadata["revision"])
        metadata = {**seen.metadata, "revision": now}
        gone.append(Resource(kind=singular(kind), metadata=metadata, spec={}, status={"deleted": True}))
        self.settle(now)


def singular(kind: str) -> str:
    return "Entry" if kind == "entries" else kind[:-1].capitalize()


def _digest(kind: str, resource: Resource) -> int:
    by_itself = CHANGES_BY_ITSELF.get(kind)
    status = resource.status
    if by_itself is not None:
        status = {name: value for name, value in status.items() if name not in by_itself}
    return hash(msgspec.json.encode((resource.metadata, resource.spec, status)))
