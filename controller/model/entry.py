"""What a node shall have: match-action entries, each knowing whom it serves, and the host's tunnels."""

from controller.model.intent import Value


class Match(Value, frozen=True, kw_only=True):
    """One match field, named as in the P4Info. Addresses are integers; IPv4 is ::ffff:0:0/96."""

    field: str
    value: int
    mask: int | None = None
    """Ternary."""
    prefix_length: int | None = None
    """LPM; IPv4's includes the 96 bits."""
    high: int | None = None
    """Range, inclusive."""


class OwnedEntry(Value, frozen=True, kw_only=True):
    """One match-action entry. Fields that match anything are left out (P4Runtime §9.1.1)."""

    table: str
    """The table's alias in the P4Info."""
    match: tuple[Match, ...]
    """In the order of the P4Info."""
    priority: int = 0
    """> 0 where the table has ternary or range fields, else 0."""
    action: str
    params: tuple[tuple[str, int], ...] = ()
    """In the order of the P4Info."""
    owner: str
    """Whose it is: `intents/NAME`, `networks/NAME`, `agreements/ID`, `links/NAME`, `nodes/NAME`,
    `sr_policies/HEADEND/NUMBER` (all that ask for the same way share it). Never sent."""
