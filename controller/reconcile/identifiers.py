"""Numbers of the nodes: given out to what needs them, shared by all that want the same, and rested afterwards.

A number goes round: it is not given out again before all others of its kind at its node have been. Besides, what has
ended rests until each of its nodes has confirmed that, be it away, slow or one that refuses things, or until all that
it had has run out: what a node still has of an ended plan would be met by the packets of a new one that has the same
numbers at the other nodes, and what still follows the ended one would meet the new one's entries.
"""

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from controller.fulfillment import numbering, plan_ids
from controller.fulfillment.numbering import Kind, first_and_last, is_shared, next_free
from controller.model.sharing import Shared
from controller.model.sr_policy import SrPolicy
from controller.model.stitch import Session, Stitch

FOR_GOOD_S = 1 << 40
KINDS = {kind.value: kind for kind in Kind}
_NUMBERS: Shared[int] = Shared()
"""At each node they begin at 1."""
WORDS = {
    Kind.VRF: "VRFs",
    Kind.POLICY_CLASS: "policy classes",
    Kind.FORWARDING_CLASS: "forwarding classes",
    Kind.SR_POLICY: "SR Policies",
    Kind.FUNCTION: "SID functions",
}


class NoNumber(Exception):
    """A node has no number of some kind that is free."""

    def __init__(self, node: str, kind: Kind, size: int) -> None:
        super().__init__(f"all {size} {WORDS[kind]} of {node} are in use")
        self.node = node


class Held(Protocol):
    """A table of the transaction."""

    @property
    def all(self) -> Mapping[str, Any]: ...
    def get(self, name: str) -> Any: ...
    def put(self, name: str, value: Any) -> None: ...
    def drop(self, name: str) -> None: ...


class Ended:
    """What ends in a step: numbers that rest for the sake of nodes that may have something of it, as far as these have
    not let go of it when the step is done (resting.py)."""

    def __init__(self) -> None:
        self.numbers: list[tuple[Mapping[str, int], tuple[str, ...], int]] = []
        """Nodes, and until when."""
        self._bits: dict[str, int] = {}

    def add(self, ids: Mapping[str, int], nodes: Iterable[str], until_s: int) -> None:
        self.numbers.append((ids, tuple(nodes), until_s))
        for key, number in ids.items():
            counter = _counter(key)
            self._bits[counter] = self._bits.get(counter, 0) | 1 << number

    def of(self, counter: str) -> int:
        """As bits."""
        return self._bits.get(counter, 0)


class Identifiers:
    """Lives for one step only."""

    def __init__(
        self, ids: Held, taken: Held, last: Held, rests: Held, ended: Ended, size: Callable[[str, str], int]
    ) -> None:
        """`ids`: of what several may want (`is_shared`), key -> number and how many want it. `taken`: NODE KIND -> the
        numbers in use, as bits. `last`: NODE KIND -> the last one given out. `rests`: NODE KIND NUMBER AWAY -> until
        when, for the sake of the node AWAY. `size`: of a node's table or counter; 0: it has not said."""
        self._ids, self._taken, self._last, self._rests, self._size = ids, taken, last, rests, size
        self._ended = ended

    def hold(self, keys: Iterable[str], now_s: float) -> dict[str, int]:
        """Numbers of all of these. Raises NoNumber; then none is held."""
        numbers: dict[str, int] = {}
        try:
            for key in keys:
                numbers[key] = _NUMBERS(self._hold(key, now_s))
        except NoNumber:
            self.release(numbers)
            raise
        return numbers

    def adopt(self, ids: Mapping[str, int]) -> None:
        """These are so already."""
        for key, number in ids.items():
            self._want(key, number)
            counter = _counter(key)
            self._taken.put(counter, (self._taken.get(counter) or 0) | 1 << number)

    def release(self, ids: Mapping[str, int]) -> None:
        """As `hold` gave them."""
        for key, number in ids.items():
            if (known := self._ids.get(key)) is not None:
                _, users = known
                if users > 1:
                    self._ids.put(key, (number, users - 1))
                    continue
                self._ids.drop(key)
            counter = _counter(key)
            self._taken.put(counter, self._taken.get(counter) & ~(1 << number))

    def rest(self, ids: Mapping[str, int], node: str, until_s: int) -> None:
        """For the sake of this one, beyond the step."""
        for key, number in ids.items():
            self._rests.put(f"{_counter(key)} {number} {node}", until_s)

    def rested(self, node: str, resting: Iterable[str]) -> None:
        """It has all that it shall have, and nothing of what rests by these names."""
        for name in [name for name in resting if name.endswith(f" {node}")]:
            self._rests.drop(name)

    def _hold(self, key: str, now_s: float) -> int:
        known = self._ids.get(key)
        if known is not None:
            number, users = known
            self._ids.put(key, (number, users + 1))
            return int(number)
        node, name, _ = key.split(" ", 2)
        counter, kind = f"{node} {name}", KINDS[name]
        first, last = first_and_last(kind, self._size(node, numbering.SIZED_BY[kind]))
        taken: int = self._taken.get(counter) or 0
        free = next_free(first, last, self._last.get(counter) or 0, taken | self._resting(counter, now_s))
        if free is None:
            raise NoNumber(node, kind, last - first + 1)
        self._last.put(counter, free)
        self._taken.put(counter, taken | 1 << free)
        if is_shared(key):
            self._ids.put(key, (free, 1))
        return free

    def _want(self, key: str, number: int) -> None:
        if is_shared(key):
            _, users = self._ids.get(key) or (number, 0)
            self._ids.put(key, (number, users + 1))

    def _resting(self, counter: str, now_s: float) -> int:
        """Numbers that rest, as bits."""
        resting = self._ended.of(counter)
        for name, until_s in self._rests.all.items() if self._rests.all else ():
            if now_s < until_s and name.startswith(f"{counter} "):
                resting |= 1 << int(name.split(" ")[2])
        return resting


def _counter(key: str) -> str:
    """NODE KIND."""
    node, kind, _ = key.split(" ", 2)
    return f"{node} {kind}"


def loaded(
    networks: Mapping[str, int], stitches: Iterable[Stitch], sr_policies: Iterable[SrPolicy]
) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
    """What is in use, as `Identifiers` has it: numbers and their users by key, and which numbers are taken."""
    ids: dict[str, tuple[int, int]] = {}
    taken: dict[str, set[int]] = {}
    for numbers in (networks, *(stitch.ids for stitch in stitches), *map(sr_policy_numbers, sr_policies)):
        for key, number in numbers.items():
            if is_shared(key):
                ids[key] = number, ids.get(key, (number, 0))[1] + 1
            taken.setdefault(_counter(key), set()).add(number)
    return ids, {counter: sum(1 << number for number in used) for counter, used in taken.items()}


def sr_policy_numbers(policy: SrPolicy) -> dict[str, int]:
    """By key; empty: it has none yet."""
    if not policy.is_numbered:
        return {}
    return dict(zip(plan_ids.sr_policy_ids(policy), policy.numbers, strict=True))


def signed(stitch: Stitch) -> Iterator[tuple[str, int]]:
    """Functions of SIDs that neighbours know: those of release 0.1 were made from other numbers."""
    for direction, session in (
        (plan_ids.FORWARD, stitch.upstream),
        (plan_ids.REVERSE, stitch.downstream),
    ):
        way = stitch.plan.ingress if direction == plan_ids.FORWARD else stitch.plan.egress
        sid = _own_sid(session)
        if way is not None and sid:
            *_, function = plan_ids.from_border(stitch.plan, direction)
            yield function, int(ipaddress.IPv6Address(sid)) >> 64 & 0xFFFF


def _own_sid(session: Session | None) -> str:
    if session is None:
        return ""
    if session.offeror:
        return session.terms.offeror_end.sid
    answered = session.answer or session.agreement
    return answered.acceptor_end.sid if answered is not None else ""
