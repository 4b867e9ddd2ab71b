"""Errors of the controller, by whose fault they are. The text says what failed, where, why, and what to do.

Expected outcomes (an unsatisfiable intent, a refused offer) are values, not errors.
"""

from dataplane.host_api import PartRefused


class ControllerError(Exception):
    """Base of all."""


class ConfigInvalid(ControllerError):
    """The operator's: a file of this controller cannot be used as it is."""


class Forbidden(ControllerError):
    """The client's: it may not do or see that; somebody else may."""


class Unavailable(ControllerError):
    """Ours: this controller cannot do it now and has not done it; asking again later helps."""


class OurFault(ControllerError):
    """Ours: what somebody else has sent cannot be worked on here, and nothing has come of it."""


class Overloaded(Unavailable):
    """More is asked than this controller takes at once."""


class NoSpace(Unavailable):
    """There is no room on the disk: nothing new is stored until there is, and nothing that was stored is lost."""


class TooOld(ControllerError):
    """The client's: of the time since the revision that it names it is not known any more what is gone."""


class PeerViolation(ControllerError):
    """A neighbouring domain's: it refuses what the protocol says it must take, or sends what it may not send."""


class PeerUnreachable(ControllerError):
    """A neighbouring domain does not answer in time; asking again later may help."""


class TargetRejected(ControllerError):
    """A node answered and said no; the same request will be refused again."""

    def __init__(self, message: str, refused: tuple[PartRefused, ...] | None = None) -> None:
        """`refused`: parts (owners of entries, `tunnels/BORDER`, `ports/NUMBER`), all else being done; None: all."""
        super().__init__(message)
        self.refused = refused


class TargetUnreachable(ControllerError):
    """A node does not answer in time, or is led by another controller; asking again later may help."""
