"""What a node shall have: match-action entries, each knowing whom it serves, and the host's tunnels."""

import marshal
import threading
from typing import Any

from controller.model.intent import Value
from controller.model.sharing import Shared


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


class Names:
    """Tuples of names <-> numbers that say the same in fewer bytes, within this process. There are as many as tables
    have shapes."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, ...], int] = {}
        self._names: list[tuple[str, ...]] = []
        self._growing = threading.Lock()

    def number(self, names: tuple[str, ...]) -> int:
        known = self._numbers.get(names)
        if known is not None:
            return known
        with self._growing:
            if names not in self._numbers:
                self._names.append(names)
                self._numbers[names] = len(self._names) - 1
            return self._numbers[names]

    def __getitem__(self, number: int) -> tuple[str, ...]:
        return self._names[number]


_NAMES = Names()
_DOES: Shared[bytes] = Shared()
"""What entries do: numbers are given out from 1 on at each node, so that on each the same is done again."""
_PLAIN = 2
"""Version of marshal in which equal values are equal bytes: later ones say where something was said before."""


class OwnedEntry(Value, frozen=True):
    """One match-action entry, as `owned_entry` makes it. There are a dozen for each intent, so an entry is packed, and
    what it says is unpacked where somebody asks."""

    table: str
    """The table's alias in the P4Info."""
    key: bytes
    """Table, match and priority: what the table knows it by (P4Runtime §9.1.1)."""
    does: bytes
    """Action and parameters."""
    owner: str
    """Whose it is: `intents/NAME`, `networks/NAME`, `agreements/ID`, `links/NAME`, `nodes/NAME`,
    `sr_policies/HEADEND/NUMBER` (all that ask for the same way share it). Never sent."""

    @property
    def match(self) -> tuple[Match, ...]:
        """In the order of the P4Info. Fields that match anything are left out (P4Runtime §9.1.1)."""
        names, _, *numbers = marshal.loads(self.key)
        fields = zip(_NAMES[names][1:], numbers[::4], numbers[1::4], numbers[2::4], numbers[3::4], strict=True)
        return tuple(
            [
                Match(field=field, value=value, mask=mask, prefix_length=prefix_length, high=high)
                for field, value, mask, prefix_length, high in fields
            ]
        )

    @property
    def priority(self) -> int:
        """> 0 where the table has ternary or range fields, else 0."""
        priority: int = marshal.loads(self.key)[1]
        return priority

    @property
    def action(self) -> str:
        return _NAMES[marshal.loads(self.does)[0]][0]

    @property
    def params(self) -> tuple[tuple[str, int], ...]:
        """In the order of the P4Info."""
        names, *numbers = marshal.loads(self.does)
        return tuple(zip(_NAMES[names][1:], numbers, strict=True))

    @property
    def numbers(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Key and action as they are packed, for who reads thousands: which names, priority, and of each field value,
        mask, prefix length and high; which names, and parameters. Names are the same where their number is."""
        return marshal.loads(self.key), marshal.loads(self.does)

    def replaced(
        self,
        *,
        table: str | None = None,
        match: tuple[Match, ...] | None = None,
        priority: int | None = None,
        action: str | None = None,
        params: tuple[tuple[str, int], ...] | None = None,
    ) -> "OwnedEntry":
        """The same but for these."""
        return owned_entry(
            table=self.table if table is None else table,
            match=self.match if match is None else match,
            priority=self.priority if priority is None else priority,
            action=self.action if action is None else action,
            params=self.params if params is None else params,
            owner=self.owner,
        )

    def __repr__(self) -> str:
        return (
            f"OwnedEntry(table={self.table!r}, match={self.match!r}, priority={self.priority}, "
            f"action={self.action!r}, params={self.params!r}, owner={self.owner!r})"
        )


def owned_entry(
    *,
    table: str,
    match: tuple[Match, ...],
    priority: int = 0,
    action: str,
    params: tuple[tuple[str, int], ...] = (),
    owner: str,
) -> OwnedEntry:
    """`match`, `params`: in the order of the P4Info."""
    does = [_NAMES.number((action, *[name for name, _ in params])), *[int(number) for _, number in params]]
    return OwnedEntry(table, packed_key(table, match, priority), _DOES(marshal.dumps(tuple(does), _PLAIN)), owner)


class Shape:
    """Entries of one table that match the same fields and do the same: made from their numbers alone, for what there
    are thousands of. They are what `owned_entry` makes of the same."""

    __slots__ = ("_does", "_fields", "_key", "_table")

    def __init__(self, table: str, fields: tuple[str, ...], action: str, params: tuple[str, ...]) -> None:
        """`fields`, `params`: names in the order of the P4Info."""
        self._table, self._fields = table, len(fields)
        self._key, self._does = _NAMES.number((table, *fields)), _NAMES.number((action, *params))

    def entry(
        self, match: tuple[int | None, ...], params: tuple[int, ...], owner: str, *, priority: int = 0
    ) -> OwnedEntry:
        """`match`: of each field value, mask, prefix length and high, one behind the other."""
        assert len(match) == 4 * self._fields
        key = marshal.dumps((self._key, priority, *match), _PLAIN)
        return OwnedEntry(self._table, key, _DOES(marshal.dumps((self._does, *params), _PLAIN)), owner)


def packed_key(table: str, match: tuple[Match, ...], priority: int) -> bytes:
    """As `OwnedEntry.key`."""
    key: list[Any] = [_NAMES.number((table, *[field.field for field in match])), priority]
    for field in match:
        key += (int(field.value), field.mask, field.prefix_length, field.high)
    return marshal.dumps(tuple(key), _PLAIN)
