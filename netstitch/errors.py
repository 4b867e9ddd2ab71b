"""Why a controller did not do what was asked. Texts say what, where, why, and what to do."""

from collections.abc import Sequence
from typing import Any


class Error(Exception):
    """Base of all."""


class Unreachable(Error):
    """No answer came, or none of a controller's."""


class Refused(Error):
    """The controller answered, and not with a yes."""

    def __init__(self, status: int, error: str, problems: Sequence[dict[str, Any]] = (), now: Any = None) -> None:
        super().__init__(error)
        self.status = status
        """Of HTTP."""
        self.problems = tuple(problems)
        """Everything that is wrong: `{"path": [0, "spec", "allow"], "message": ...}`."""
        self.now = now
        """With Stale: what has changed, as it is now."""


class Invalid(Refused):
    """400, 413, 415: what was sent is not right; the problems say where."""


class NotAllowed(Refused):
    """401, 403: the token is none of this controller's, or may not do this."""


class NotFound(Refused):
    """404: there is no such thing."""


class Conflict(Refused):
    """409: it does not go with what is there."""


class Gone(Refused):
    """410: what has changed since that revision is not known any more; list again."""


class Stale(Refused):
    """412: somebody else has changed it since that revision."""


class Unavailable(Refused):
    """503: not now; asking again helps."""


KINDS: dict[int, type[Refused]] = {
    400: Invalid, 401: NotAllowed, 403: NotAllowed, 404: NotFound, 409: Conflict, 410: Gone, 412: Stale, 413: Invalid,
    415: Invalid, 503: Unavailable,
}  # fmt: skip
