"""One match-action entry as the P4Info names it: what clients write, the codec packs and the reference model reads."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldMatch:
    """How one key field matches. Exact fields set `value` only. Addresses are integers; IPv4 is ::ffff:0:0/96."""

    field: str
    value: int
    mask: int | None = None
    """Ternary; bits of `value` outside of it are 0 (P4Runtime §9.1.1)."""
    prefix_length: int | None = None
    """LPM; IPv4's includes the 96 bits."""
    high: int | None = None
    """Range: `value` to `high`, both included."""


@dataclass(frozen=True, slots=True)
class TableEntry:
    """One entry. Fields that match anything are left out (P4Runtime §9.1.1)."""

    table: str
    """The table's alias in the P4Info."""
    match: tuple[FieldMatch, ...]
    """In the order of the P4Info."""
    action: str
    params: tuple[tuple[str, int], ...] = ()
    """In the order of the P4Info."""
    priority: int = 0
    """> 0 where the table has ternary or range fields, else 0; the highest wins."""
