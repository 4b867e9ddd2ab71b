"""Table look-ups as the P4Runtime specification defines them, by trying every entry."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from dataplane.entry import FieldMatch, TableEntry

ADDRESS_BITS = 128
FULL_MASK = (1 << ADDRESS_BITS) - 1


@dataclass(frozen=True, slots=True)
class Action:
    name: str
    params: dict[str, int]
    entry: TableEntry = field(compare=False, repr=False)
    """Which says so."""


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A field's `value` to `high` under a mask: every match type is one of these."""

    mask: int
    value: int
    high: int

    def matches(self, key: int) -> bool:
        return self.value <= key & self.mask <= self.high


def _pattern(match: FieldMatch) -> _Pattern:
    if match.high is not None:
        return _Pattern(FULL_MASK, match.value, match.high)
    mask = FULL_MASK
    if match.mask is not None:
        mask = match.mask
    elif match.prefix_length is not None:
        mask = FULL_MASK ^ (FULL_MASK >> match.prefix_length)
    return _Pattern(mask, match.value & mask, match.value & mask)


@dataclass(frozen=True, slots=True)
class _Row:
    rank: tuple[int, int]
    """Priority, then prefix length: the highest rank that matches wins."""
    patterns: tuple[tuple[str, _Pattern], ...]
    action: Action


class Tables:
    """All entries of a node. `look_up` gives the action that wins, or None."""

    def __init__(self, entries: Iterable[TableEntry]) -> None:
        rows: defaultdict[str, list[_Row]] = defaultdict(list)
        for entry in entries:
            rank = (entry.priority, max((match.prefix_length or 0 for match in entry.match), default=0))
            patterns = tuple((match.field, _pattern(match)) for match in entry.match)
            rows[entry.table].append(_Row(rank, patterns, Action(entry.action, dict(entry.params), entry)))
        self._rows = {table: sorted(of, key=lambda row: row.rank, reverse=True) for table, of in rows.items()}

    def look_up(self, table: str, **key: int) -> Action | None:
        for row in self._rows.get(table, ()):
            if all(pattern.matches(key[field]) for field, pattern in row.patterns):
                return row.action
        return None

    def policies(self, now_s: float, **key: int) -> tuple[list[Action], Action | None]:
        """What `flow_policy` says of a flow at a boot time, the one that wins first; and of what has ended the highest
        that permitted it."""
        says: list[Action] = []
        ended = None
        for row in self._rows.get("flow_policy", ()):
            if all(pattern.matches(key[field]) for field, pattern in row.patterns):
                action = row.action
                if not self._has_ended(action, now_s):
                    says.append(action)
                elif action.name != "drop_until":
                    ended = ended or action
        return says, ended

    def _has_ended(self, action: Action, now_s: float) -> bool:
        if action.name == "drop":
            return False
        if action.name == "drop_until":
            return now_s >= action.params["boottime_s"]
        lease = Tables.look_up(self, "lease", forwarding_class=action.params["forwarding_class"])
        return lease is not None and now_s >= lease.params["boottime_s"]

    def candidates(self, sr_policy: int) -> dict[int, Action]:
        """Candidate paths by slot: the number of the one bit of `live` that the entry asks for."""
        slots = {}
        for row in self._rows.get("sr_policy", ()):
            fields = dict(row.patterns)
            if fields["sr_policy"].matches(sr_policy):
                slots[fields["live"].value.bit_length() - 1] = row.action
        return slots
