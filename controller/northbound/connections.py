"""Whose the connections to the API are, and how many of them.

```
 a connection ──▶ nobody's yet: STRANGERS_MAX of all; the eldest of the address that has most gives way
                      │ a request with a token comes over it
                      ▼
                  that token's: OF_A_TOKEN_MAX, its eldest idle one gives way; all together KNOWN_MAX, where the eldest
                  of the token that has most gives way
```
"""

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

STRANGERS_MAX = 128
"""An honest client is nobody's for milliseconds."""
OF_A_TOKEN_MAX = 128
KNOWN_MAX = 512
"""Descriptors are the store's and the nodes' too."""


class Connection(Protocol):
    host: str
    """Where it comes from."""

    @property
    def idle(self) -> bool:
        """No request is under way."""
        ...

    def give_way(self) -> None:
        """Closes it at once."""
        ...


class Connections:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._strangers: dict[Connection, None] = {}
        self._known: dict[str, dict[Connection, None]] = {}
        """By token, eldest first."""
        self._whose: dict[Connection, str] = {}

    def enter(self, connection: Connection) -> None:
        if len(self._strangers) >= STRANGERS_MAX:
            most = Counter(each.host for each in self._strangers).most_common(1)[0][0]
            self._close(next(each for each in self._strangers if each.host == most))
        self._strangers[connection] = None

    def is_of(self, connection: Connection, token: str) -> bool:
        """A request with this token has come over it. False: the token has as many as it may, and all are in use."""
        if self._whose.get(connection) == token:
            return True
        theirs = self._known.get(token, {})
        if len(theirs) >= OF_A_TOKEN_MAX:
            victim = _first_idle(theirs)
        elif len(self._whose) >= KNOWN_MAX:
            most = max(self._known.values(), key=len)
            victim = _first_idle(most) or next(iter(most)) if len(most) > len(theirs) + 1 else None
        else:
            self._put(connection, token)
            return True
        if victim is None:
            return False
        self._close(victim)
        self._put(connection, token)
        return True

    def leave(self, connection: Connection) -> None:
        self._strangers.pop(connection, None)
        token = self._whose.pop(connection, None)
        if token is not None:
            theirs = self._known[token]
            del theirs[connection]
            if not theirs:
                del self._known[token]

    def _put(self, connection: Connection, token: str) -> None:
        self.leave(connection)
        self._known.setdefault(token, {})[connection] = None
        self._whose[connection] = token

    def _close(self, connection: Connection) -> None:
        self.leave(connection)
        connection.give_way()


def _first_idle(connections: Iterable[Connection]) -> Connection | None:
    return next((each for each in connections if each.idle), None)
