"""All rules of one VRF at a node, as a value: a change of it says which entries are gone and which are new.

A rule permits its flows from each group of its sources to each group of its destinations. So rules that come or go make
their own entries, and where they split groups, or leave some that need not be told apart any more, the entries of the
rules that are about these groups change by just these. How all of it is compiled at once is written down in
tests/full_rules.py, which must come to the same.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

import immutables

from controller.fulfillment.acl import (
    L4,
    MAX_STEPS,
    NoCapacity,
    PortClasses,
    Rule,
    flow_entry,
    group_entry,
    l4_fields,
    outcome,
)
from controller.fulfillment.groups import MAX_GROUP, Groups, GroupsChange, Name, Rank, set_name
from controller.model.entry import OwnedEntry
from controller.model.intent import Ports

Flow = tuple[int, int | None, int | None, L4]
"""Policy class, source group, destination group, and what of L4: what an entry matches."""
Side = Literal["source", "destination"]
SIDES: tuple[Side, Side] = ("source", "destination")


class VrfRules(NamedTuple):
    rules: "immutables.Map[Rank, Rule]" = immutables.Map()
    source: Groups = Groups()
    destination: Groups = Groups()
    flows: "immutables.Map[Flow, tuple[Rank, ...]]" = immutables.Map()
    """Rules that permit or drop the very same. Which of them have entries says `_standing`."""
    ports: "immutables.Map[Ports, immutables.Map[Rank, None]]" = immutables.Map()
    """Which rules are about them."""
    steps: int = 0
    """Of compiling all of them."""


NO_RULES = VrfRules()
MAX_LEASES = 3
"""Of rules that permit the very same and end, so many have entries: each takes masks of the table, which are few."""


class VrfChange(NamedTuple):
    before: VrfRules
    now: VrfRules
    classes: PortClasses
    groups_gone: tuple[OwnedEntry, ...]
    """Entries of the group tables."""
    groups_new: tuple[OwnedEntry, ...]
    touched: Mapping[Flow, tuple[Rank, ...]]
    """Rules of the flows of which other rules are now, as they were."""

    def entries(
        self,
        withheld_before: Collection[Rank] = (),
        withheld: Collection[Rank] = (),
        moved: Collection[Rank] = (),
    ) -> tuple[list[OwnedEntry], list[OwnedEntry]]:
        """Those that are gone, and those that are new. Rules that are withheld permit nothing yet; `moved`: those that
        are withheld now and were not before, or the other way about."""
        touched = dict(self.touched)
        for rank in moved:
            if (rule := self.now.rules.get(rank)) is not None:
                pairs = itertools.product(
                    self.now.source.of(_name(rule, "source")), self.now.destination.of(_name(rule, "destination"))
                )
                for flow in _flows(rule, pairs, self.classes):
                    touched.setdefault(flow, self.before.flows.get(flow, ()))
        gone, new = [*self.groups_gone], [*self.groups_new]
        rules_before, rules, flows = self.before.rules, self.now.rules, self.now.flows
        for flow, ranks in touched.items():
            ranks_now = flows.get(flow, ())
            if not ranks and len(ranks_now) == 1:  # most of what is new
                if ranks_now[0] not in withheld:
                    new.append(flow_entry(flow, rules[ranks_now[0]]))
                continue
            was, now = _standing(ranks, rules_before, withheld_before), _standing(ranks_now, rules, withheld)
            if not was or not now:
                gone += [flow_entry(flow, rule) for rule in was]
                new += [flow_entry(flow, rule) for rule in now]
                continue
            before, after = [*map(outcome, was)], [*map(outcome, now)]
            gone += [flow_entry(flow, rule) for rule, said in zip(was, before, strict=True) if said not in after]
            new += [flow_entry(flow, rule) for rule, said in zip(now, after, strict=True) if said not in before]
        return gone, new


def changed(
    vrf: int,
    before: VrfRules,
    gone: Collection[Rank],
    new: Mapping[Rank, Rule],
    classes_before: PortClasses,
    classes: PortClasses,
) -> VrfChange:
    """`gone`: rules that are there no more. `new`: those that are there instead or besides. `classes`: of the node's
    ports. Raises NoCapacity."""
    if not gone and not new and classes == classes_before:
        return VrfChange(before, before, classes, (), (), {})
    return _Change(vrf, before, gone, new, classes_before, classes).changed()


class _Change:
    def __init__(
        self,
        vrf: int,
        before: VrfRules,
        gone: Collection[Rank],
        new: Mapping[Rank, Rule],
        classes_before: PortClasses,
        classes: PortClasses,
    ) -> None:
        self._vrf, self._before = vrf, before
        self._classes_before, self._classes = classes_before, classes
        self._gone = {rank: before.rules[rank] for rank in (*gone, *new) if rank in before.rules}
        self._new = dict(new)
        if classes != classes_before:
            for ports, ranks in before.ports.items():
                if classes_before.of(ports) != classes.of(ports):
                    for rank in ranks:
                        rule = self._gone.setdefault(rank, before.rules[rank])
                        if rank not in gone:
                            self._new.setdefault(rank, rule)
        self._groups = {"source": GroupsChange(before.source), "destination": GroupsChange(before.destination)}
        self._numbers: dict[tuple[Side, Name | None, bool], tuple[int | None, ...]] = {}
        """Of groups of sets, as far as they were asked for once all had changed."""
        self._l4: dict[tuple[object, ...], tuple[L4, ...]] = {}
        """What rules about the same ports match, as far as it was asked for."""
        self._flows = before.flows.mutate()
        self._touched: dict[Flow, tuple[Rank, ...]] = {}
        """As they were."""

    def changed(self) -> VrfChange:
        for side in SIDES:
            self._groups[side].change(
                [(rank, wanted) for rank, rule in self._gone.items() if (wanted := _prefixes(rule, side)) is not None],
                [
                    (rank, wanted, rule.owner)
                    for rank, rule in self._new.items()
                    if (wanted := _prefixes(rule, side)) is not None
                ],
            )
            if self._groups[side].now.prefixes > MAX_GROUP:
                raise NoCapacity(f"{side}_group", self._groups[side].now.prefixes)
        rules = self._rules()
        affected = self._affected()
        steps = self._steps(affected)
        if steps > MAX_STEPS:
            raise NoCapacity("flow_policy", steps)
        self._permit(affected)
        gone: list[OwnedEntry] = []
        new: list[OwnedEntry] = []
        for side in SIDES:
            change = self._groups[side]
            for at in change.prefixes:
                before, now = change.before.entry(at), change.now.entry(at)
                if before != now:
                    gone += [group_entry(self._vrf, side, at, *before)] if before is not None else []
                    new += [group_entry(self._vrf, side, at, *now)] if now is not None else []
        made = VrfRules(
            rules=rules,
            source=self._groups["source"].now,
            destination=self._groups["destination"].now,
            flows=self._flows.finish(),
            ports=self._ports(),
            steps=steps,
        )
        return VrfChange(self._before, made, self._classes, tuple(gone), tuple(new), self._touched)

    def _rules(self) -> "immutables.Map[Rank, Rule]":
        rules = self._before.rules.mutate()
        for rank in self._gone.keys() - self._new.keys():
            del rules[rank]
        for rank, rule in self._new.items():
            rules[rank] = rule
        return rules.finish()

    def _ports(self) -> "immutables.Map[Ports, immutables.Map[Rank, None]]":
        moved: dict[Ports, dict[Rank, bool]] = {}
        """Which rules are about them now, and which are not any more."""
        for is_there, rules in ((False, self._gone), (True, self._new)):
            for rank, rule in rules.items():
                for ports in rule.ports:
                    moved.setdefault(ports, {})[rank] = is_there
        by_ports = self._before.ports.mutate()
        for ports, ranks in moved.items():
            now = by_ports.get(ports, immutables.Map()).mutate()
            for rank, is_there in ranks.items():
                if is_there:
                    now[rank] = None
                else:
                    del now[rank]
            if left := now.finish():
                by_ports[ports] = left
            else:
                del by_ports[ports]
        return by_ports.finish()

    def _affected(self) -> dict[Rank, Rule]:
        """Rules that stay, and have other groups."""
        affected = {}
        for side in SIDES:
            for name in self._groups[side].sets:
                prefix_set = self._groups[side].now.sets.get(name)
                for rank in prefix_set.rules if prefix_set is not None else ():
                    if rank not in self._new:
                        affected[rank] = self._before.rules[rank]
        return affected

    def _steps(self, affected: Mapping[Rank, Rule]) -> int:
        steps = self._before.steps
        for rules, before, sign in (
            (self._gone, True, -1),
            (affected, True, -1),
            (affected, False, 1),
            (self._new, False, 1),
        ):
            for rule in rules.values():
                source, destination = (len(self._of(side, rule, before=before)) for side in SIDES)
                steps += sign * source * destination * len(self._fields(rule, before=before))
        return steps

    def _fields(self, rule: Rule, *, before: bool) -> tuple[L4, ...]:
        key = rule.ports, rule.reply, rule.default, before
        if key not in self._l4:
            self._l4[key] = tuple(l4_fields(rule, self._classes_before if before else self._classes))
        return self._l4[key]

    def _of(self, side: Side, rule: Rule, *, before: bool) -> tuple[int | None, ...]:
        key = side, _name(rule, side), before
        if key not in self._numbers:
            change = self._groups[side]
            self._numbers[key] = (change.before if before else change.now).of(key[1])
        return self._numbers[key]

    def _permit(self, affected: Mapping[Rank, Rule]) -> None:
        """What each rule is about is taken from it first, then given to it: numbers of groups may change hands."""
        for rank, rule in self._gone.items():
            for flow in _flows(rule, self._pairs(rule, before=True), self._classes_before):
                self._leave(flow, rank)
        for rank, rule in affected.items():
            for flow in _flows(rule, self._moved(rule, before=True), self._classes):
                self._leave(flow, rank)
        for rank, rule in affected.items():
            for flow in _flows(rule, self._moved(rule, before=False), self._classes):
                self._join(flow, rank)
        for rank, rule in self._new.items():
            fields, policy_class = dict.fromkeys(self._fields(rule, before=False)), rule.policy_class
            for source, destination in self._pairs(rule, before=False):
                for l4 in fields:
                    self._join((policy_class, source, destination, l4), rank)

    def _pairs(self, rule: Rule, *, before: bool) -> Iterator[tuple[int | None, int | None]]:
        return itertools.product(self._of("source", rule, before=before), self._of("destination", rule, before=before))

    def _moved(self, rule: Rule, *, before: bool) -> Iterator[tuple[int | None, int | None]]:
        """Pairs of groups that the rule was about before and is not any more, or the other way about."""
        moved = []
        for side in SIDES:
            name = _name(rule, side)
            gone, new = self._groups[side].sets.get(name, ((), ())) if name is not None else ((), ())
            moved.append(gone if before else new)
        sources, destinations = moved
        if sources:
            yield from itertools.product(sources, self._of("destination", rule, before=before))
        if destinations:
            other = {*sources}
            staying = [group for group in self._of("source", rule, before=before) if group not in other]
            yield from itertools.product(staying, destinations)

    def _leave(self, flow: Flow, rank: Rank) -> None:
        ranks = self._flows[flow]
        self._touched.setdefault(flow, ranks)
        left = tuple(other for other in ranks if other != rank)
        if left:
            self._flows[flow] = left
        else:
            del self._flows[flow]

    def _join(self, flow: Flow, rank: Rank) -> None:
        ranks = self._flows.get(flow, ())
        self._touched.setdefault(flow, ranks)
        if rank not in ranks:
            self._flows[flow] = (*ranks, rank)


def _prefixes(rule: Rule, side: Side) -> tuple[str, ...] | None:
    return rule.source if side == "source" else rule.destination


def _name(rule: Rule, side: Side) -> Name | None:
    prefixes = _prefixes(rule, side)
    return None if prefixes is None else set_name(prefixes)


def _flows(rule: Rule, pairs: Iterable[tuple[int | None, int | None]], classes: PortClasses) -> Iterator[Flow]:
    fields = dict.fromkeys(l4_fields(rule, classes))
    for source, destination in pairs:
        for l4 in fields:
            yield rule.policy_class, source, destination, l4


def _standing(ranks: tuple[Rank, ...], rules: Mapping[Rank, Rule], withheld: Collection[Rank]) -> list[Rule]:
    """The one with the highest priority, and as long as it is one that ends, what comes next.

    Of equals it is the one that holds longest, then that of the first owner by name, and of one owner's the last, since
    it is of the plan that takes over.
    """
    if withheld:
        ranks = tuple(rank for rank in ranks if rank not in withheld)
    if len(ranks) < 2:
        return [rules[rank] for rank in ranks]
    alike = [rules[rank] for rank in sorted(ranks, reverse=True)]
    alike.sort(key=lambda rule: (-rule.priority, -(math.inf if rule.until_s is None else rule.until_s), rule.owner))
    standing: list[Rule] = []
    leases = 0
    for rule in alike:
        if (standing and rule.priority == standing[-1].priority) or (rule.leased and leases == MAX_LEASES):
            continue
        standing.append(rule)
        leases += rule.leased
        if not rule.leased and rule.until_s is None:
            break
    return standing
