"""Which of many resources, and how many at once: selectors, pages."""

import base64
import binascii
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from controller.model.resource import Resource

LIMIT_MAX = 10_000


class Term(NamedTuple):
    """One of a selector's."""

    label: str
    wanted: bool
    """Whether the label (with this value) is to be there or not to be there."""
    value: str | None
    """None: any."""


class Selection(NamedTuple):
    labels: tuple[Term, ...] = ()
    phase: str | None = None
    tenant: str | None = None
    about: str | None = None
    """Of events: `intents/NAME` and what else they may be about."""

    def picks(self, resource: Resource) -> bool:
        """What is gone has no phase, and is told to all whom its metadata concerns."""
        metadata, status = resource.metadata, resource.status
        if self.tenant is not None and metadata.get("tenant") != self.tenant:
            return False
        if self.phase is not None and not status.get("deleted") and _phase(resource) != self.phase.lower():
            return False
        if self.about is not None and self.about not in (resource.spec.get("about"), resource.spec.get("serves")):
            return False
        labels = metadata.get("labels") or {}
        return all(
            (label.label in labels and label.value in (None, labels[label.label])) == label.wanted
            for label in self.labels
        )


def _phase(resource: Resource) -> str:
    """Of an agreement it is called its standing."""
    return str(resource.status.get("phase", resource.status.get("standing", ""))).lower()


def selector(text: str) -> tuple[Term, ...]:
    """`app=web,tier!=2,pci,!old`: all must match. Raises ValueError."""
    terms = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        label, separator, value = (word.strip() for word in part.replace("==", "=").partition("="))
        wanted = not label.startswith("!") and not label.endswith("!")
        label = label.strip("!").strip()
        if not label or (separator and not value):
            raise ValueError(f"{part!r}: expected NAME=VALUE, NAME!=VALUE, NAME or !NAME")
        terms.append(Term(label, wanted, value if separator else None))
    return tuple(terms)


def page(resources: Iterable[Resource], limit: int | None) -> tuple[Sequence[Resource], str]:
    """So many of them (they are by name), and what to ask for the rest with; empty: there is no more.

    No more of them are taken than needed.
    """
    taken = list(resources if limit is None else itertools.islice(resources, limit + 1))
    if limit is None or len(taken) <= limit:
        return taken, ""
    return taken[:limit], _encoded(str(taken[limit - 1].metadata["name"]))


def name_before(after: str | None) -> str:
    """Of what a list said how to continue with; empty: at the beginning. Raises ValueError where it is none of ours."""
    return "" if after is None else _decoded(after)


def _encoded(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{text[:40]!r} is not what a list said how to continue with") from error
