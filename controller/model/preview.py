"""What a change would do, told by a dry run: nothing of it is stored, sent or numbered; no other domain is asked."""

from controller.model.intent import Value


class IntentPreview(Value, frozen=True, kw_only=True, omit_defaults=False):
    """An intent that would stand otherwise than it does."""

    name: str
    before: str
    """Its phase now; empty: it is new."""
    phase: str
    """What it would come to once this domain's nodes have confirmed; `Deleted` where it would be gone."""
    reasons: tuple[str, ...]
    """Conditions, and what would be asked of neighbours."""
    paths: tuple[tuple[str, ...], ...]
    latency_ms: float | None
    """As it is predicted."""


class EntryPreview(Value, frozen=True, kw_only=True, omit_defaults=False):
    name: str
    text: str
    owner: str


class NodePreview(Value, frozen=True, kw_only=True, omit_defaults=False):
    """A node's entries, once all that would be asked for is agreed. SIDs that neighbours would choose are not known
    yet: ours stand for them."""

    node: str
    added: tuple[EntryPreview, ...]
    changed: tuple[EntryPreview, ...]
    removed: tuple[EntryPreview, ...]


class AgreementPreview(Value, frozen=True, kw_only=True, omit_defaults=False):
    """What would be said to a neighbour."""

    peer: str
    what: str
    """`asked`, `ended` or `refused`."""
    text: str


class Preview(Value, frozen=True, kw_only=True, omit_defaults=False):
    intents: tuple[IntentPreview, ...] = ()
    agreements: tuple[AgreementPreview, ...] = ()
    nodes: tuple[NodePreview, ...] = ()

    @property
    def refused(self) -> tuple[IntentPreview, ...]:
        """Those for which the answer would be no."""
        return tuple(intent for intent in self.intents if intent.phase in ("Unsatisfiable", "Refused"))
