"""Where a resource can stand, by kind: what a list can be asked for. Kinds that are not here have no phases."""

from difflib import get_close_matches

from controller.model import incident
from controller.model.intent import Phase
from controller.model.stitch import Standing

DISCOVERED = "Discovered"
"""A link of which nobody has said that it shall be used."""
ATTACHED, CANDIDATE = "Attached", "Candidate"
"""A host of a network, and one that is heard and no network has."""
_INSTALLED = (Phase.ACTIVE.value, Phase.INSTALLING.value)
PHASES: dict[str, tuple[str, ...]] = {
    "intents": tuple(phase.value for phase in Phase if phase is not Phase.WITHDRAWN),
    "networks": _INSTALLED,
    "links": (*_INSTALLED, DISCOVERED),
    "hosts": (ATTACHED, CANDIDATE),
    "nodes": ("Ready", "Syncing", "Unreachable", "Unknown"),
    "agreements": tuple(standing.value for standing in Standing),
    "incidents": tuple(standing.value for standing in incident.Standing),
    "plugins": ("Ready", "NotCalled", "Failed"),
}
"""Of an agreement it is called its standing."""


def phase_of(kind: str, text: str) -> str:
    """The phase that is meant, in whatever case. Raises ValueError where things of that kind never stand so."""
    known = PHASES.get(kind, ())
    if not known:
        raise ValueError(f"phase {text!r}: {kind} have no phases; {', '.join(PHASES)} have")
    phase_found = next((phase for phase in known if phase.lower() == text.lower()), None)
    if phase_found is None:
        near = get_close_matches(text.capitalize(), known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"phase {text!r}: {kind} are {', '.join(known[:-1])} or {known[-1]}{hint}")
    return phase_found
