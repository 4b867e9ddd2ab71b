"""Where a resource comes from: who applied it last, out of which file, when, and since when it is there."""

from controller.model.intent import Value

SEED = "seed"
"""The inventory file, when the store was new."""
KEY_FILES = "key files"
"""The controller itself: its own domain's keys are those of its key directory."""


class Provenance(Value, frozen=True, kw_only=True):
    by: str
    """`seed`, `key files`, or the name of the token with which the API was used."""
    file: str = ""
    """That it was read from, where the controller read it."""
    at_s: int
    """Unix time at which it was applied last and changed, or renewed."""
    created_s: int = 0
    """Unix time since when it is there; 0: stored by a release that kept only `at_s`."""
    revision: int = 0
    """Grows with every change; the resource is seen with this one or, as its status changes, later ones."""
