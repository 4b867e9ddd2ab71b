"""What happened to something, when, why, and who did it: `stitch events`."""

from controller.model.intent import Value

RECORD = "Event"
"""Kind of its records in the store; their names are serials."""


class Happening(Value, frozen=True, kw_only=True):
    serial: int
    """Grows with each."""
    time_s: int
    """Unix time."""
    about: str
    """`intents/order-processing`, `nodes/se1`, `agreements/...`."""
    what: str
    """`created`, `phase Active`, `offer sent`, `node unreachable`."""
    why: str = ""
    by: str = ""
    """Who asked for it; empty: the controller by itself."""
    serves: str = ""
    """The intent or agreement that it is for, where that is not what it is about."""
    tenant: str = ""
    """Whose the intent was that it is about or for; empty: it concerns no tenant's."""
    members: tuple[str, ...] = ()
    """It is shown as one line for each of these, and kept once: of an SR Policy that has moved the intents
    (`intents/NAME`) and agreements whose traffic takes it; about `intents`, those of which this is so."""
