"""What happened, made from what steps did: out of their replies, their log, and the phases of intents that changed.

It decides nothing. What is kept is bounded, and stored with what it tells of, so that a restart keeps it.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Self

import immutables
import msgspec

from controller.language.manifest import PLURALS
from controller.model.event import Apply, Delete, Effect, Event, Log, Record, Renew, Reply, SetDrain
from controller.model.happening import RECORD, Happening
from controller.model.intent import Phase
from controller.model.persistent import GONE, Gone, PersistentMap
from controller.model.resource import Resource
from controller.reconcile.link_state import is_cut
from controller.reconcile.restoration import MOVED
from controller.reconcile.state import SR_POLICIES, State
from controller.reconcile.tables import link_key, node_key, over, service_key, sr_policy_key
from controller.views.intent_status import exceptional_nodes, intent_phase
from dataplane.decoding import from_json

KEPT = 5_000
ALIKE_MIN, ALIKE_MAX = 16, 1_000
"""So many of one tenant's intents of which the same happens at once are told of in one line."""
INTENTS = "intents"
"""What such a line is about."""
_DONE = ("created", "changed", "withdrawn", "deleted", "renewed", "drained", "undrained")
_TOLD_OTHERWISE = frozenset({
    "intent_accepted", "intent_changed", "intent_withdrawn", "intent_renewed", "intent_expired",
    "intent_unsatisfiable", "intent_refused", "node_synced", "inventory",
})  # fmt: skip
"""Of the log: by replies and phases; and what happens with every change."""
_SUBJECTS = (("agreement", "agreements"), ("intent", "intents"), ("node", "nodes"), ("link", "links"))
_PHASE = "phase "
_LASTING = frozenset({Phase.DEGRADED, Phase.UNSATISFIABLE, Phase.REFUSED})
"""Phases of which a new reason is worth telling."""


class History:
    def __init__(self, happenings: Iterable[Happening] = ()) -> None:
        in_order = sorted(happenings, key=lambda happening: happening.serial)
        self._kept = self._stored = immutables.Map((happening.serial, happening) for happening in in_order)
        self._oldest, self._last = (in_order[0].serial, in_order[-1].serial) if in_order else (1, 0)
        """Serial numbers."""
        self._lines = sum(map(_shown, in_order))
        """That are shown of what is kept."""
        self._phases: PersistentMap[tuple[str, str]] = PersistentMap()
        """Intent -> the phase and reason that were told last."""
        self._newest: PersistentMap[Happening] = PersistentMap()
        """About each thing, of those that are kept: nothing is told twice in a row."""
        self._unsure: set[str] = set()
        """Intents whose phase is to be looked at."""
        for happening in in_order:
            self._newest = self._newest.updated(dict.fromkeys(_subjects(happening), happening))
            if happening.what.startswith(_PHASE):
                told = _told(happening.what.removeprefix(_PHASE), happening.why)
                intents = happening.members or (happening.about,)
                self._phases = self._phases.updated({about.partition("/")[2]: told for about in intents})

    @classmethod
    def load(cls, records: Iterable[Record]) -> Self:
        """Raises ValueError for a record that cannot be read."""
        happenings = []
        for record in records:
            if record.kind == RECORD and record.content is not None:
                try:
                    happenings.append(from_json(record.content, Happening))
                except msgspec.MsgspecError as error:
                    raise ValueError(f"record {record.kind}/{record.name} cannot be read: {error}") from error
        return cls(happenings)

    def mark(self) -> tuple[object, ...]:
        """For `go_back`."""
        return self._kept, self._oldest, self._last, self._lines, self._phases, self._newest, set(self._unsure)

    def go_back(self, mark: tuple[Any, ...]) -> None:
        """As if nothing had been observed since."""
        self._kept, self._oldest, self._last, self._lines, self._phases, self._newest, self._unsure = mark

    def settle(self) -> None:
        """What was observed is stored, and may be seen."""
        self._stored = self._kept

    def resources(self) -> list[Resource]:
        """The newest, in their order. What has members is told of each of these."""
        newest: list[Resource] = []
        for _, happening in sorted(self._stored.items(), reverse=True):
            newest += reversed(_resources(happening))
            if len(newest) >= KEPT:
                break
        return newest[KEPT - 1 :: -1]

    def observe(
        self, states: Sequence[State], events: Sequence[Event], effects: Iterable[Effect], now_s: float
    ) -> tuple[Record, ...]:
        """What is to be stored of what these events and effects mean. `states`: before the first, and after each."""
        before, after = states[0], states[-1]
        asked = {event.request_id: event for event in events if isinstance(event, Apply | Delete | Renew | SetDrain)}
        told = [*effects]
        happenings: list[Happening] = []
        for reply in (effect for effect in told if isinstance(effect, Reply) and effect.request_id in asked):
            happenings += _done(reply, asked[reply.request_id])  # what follows from it comes after it
        for log in (effect for effect in told if isinstance(effect, Log) and effect.event not in _TOLD_OTHERWISE):
            happenings += _moved(log, before, after) if log.event == MOVED else _logged(log, before, after)
        for earlier, later in itertools.pairwise(states):
            self._unsure.update(_unsettled_by(earlier, later))
        if self._unsure and not _in_flux(after):
            happenings += self._phase_changes(after, now_s)
        return self._keep([_of_tenant(happening, before, after) for happening in happenings], now_s)

    def _phase_changes(self, state: State, now_s: float) -> Iterator[Happening]:
        """Those who share one follow each other."""
        nodes, told = exceptional_nodes(state), dict[str, tuple[str, str] | Gone]()
        changed: dict[tuple[str, str], list[str]] = {}
        for name in sorted(self._unsure):
            intent_record = state.intent_records.get(name)
            if intent_record is None:
                told[name] = GONE
                continue
            current, conditions, _ = intent_phase(state, intent_record, now_s, nodes)
            phase, why = str(current), "; ".join(condition["reason"] for condition in conditions)
            if self._phases.get(name) != _told(phase, why):
                told[name] = _told(phase, why)
                changed.setdefault((phase, why), []).append(name)
        self._phases = self._phases.updated(told)
        self._unsure.clear()
        for (phase, why), names in changed.items():
            for name in names:
                yield _happening(f"intents/{name}", _PHASE + phase, why)

    def _keep(self, happenings: Iterable[Happening], now_s: float) -> tuple[Record, ...]:
        new: dict[int, Happening] = {}
        newest: dict[str, Happening | Gone] = {}
        for happening in _together(self._news(happenings))[-KEPT:]:
            self._last += 1
            new[self._last] = made = msgspec.structs.replace(happening, serial=self._last, time_s=int(now_s))
            newest |= dict.fromkeys(_subjects(made), made)
        if not new:
            return ()
        self._newest = self._newest.updated(newest)
        self._lines += sum(map(_shown, new.values()))
        kept, gone = self._kept.update(new), []
        forgotten: dict[str, Happening | Gone] = {}
        while (oldest := kept.get(self._oldest)) is None or self._lines - _shown(oldest) >= KEPT:
            if oldest is not None:
                kept = kept.delete(self._oldest)
                self._lines -= _shown(oldest)
                gone += [self._oldest] if new.pop(self._oldest, None) is None else []
                for subject in _subjects(oldest):
                    if self._newest.get(subject) is oldest:
                        forgotten[subject] = GONE
            self._oldest += 1
        self._kept, self._newest = kept, self._newest.updated(forgotten)
        stored = [
            Record(kind=RECORD, name=str(happening.serial), content=msgspec.json.encode(happening))
            for happening in new.values()
        ]
        return (*(Record(kind=RECORD, name=str(old), content=None) for old in gone), *stored)

    def _news(self, happenings: Iterable[Happening]) -> Iterator[Happening]:
        """Nothing is told twice in a row of the same."""
        said: dict[str, Happening] = {}
        for happening in happenings:
            (subject,) = _subjects(happening)
            told = said.get(subject) or self._newest.get(subject)
            if told is None or _says(told) != _says(happening):
                said[subject] = happening
                yield happening


def _together(happenings: Iterable[Happening]) -> list[Happening]:
    """Of many intents in a row of which the same happens, one for all."""
    lines: list[Happening] = []
    for _, run in itertools.groupby(happenings, key=_alike):
        alike = [*run]
        if len(alike) < ALIKE_MIN or alike[0].members or not alike[0].about.startswith("intents/"):
            lines += alike
            continue
        for start in range(0, len(alike), ALIKE_MAX):
            members = tuple(happening.about for happening in alike[start : start + ALIKE_MAX])
            lines.append(msgspec.structs.replace(alike[0], about=INTENTS, members=members))
    return lines


def _alike(happening: Happening) -> tuple[object, ...]:
    kind = happening.about.partition("/")[0]
    return kind, happening.what, happening.why, happening.by, happening.tenant, happening.serves, happening.members


def _shown(happening: Happening) -> int:
    """In how many lines."""
    return len(happening.members) or 1


def _subjects(happening: Happening) -> tuple[str, ...]:
    """What it is about, of which nothing is told twice in a row."""
    if happening.about == INTENTS:
        return happening.members
    return (f"{happening.about} of {happening.tenant}" if happening.members else happening.about,)


def _says(happening: Happening) -> tuple[object, ...]:
    return happening.what, happening.why, () if happening.about == INTENTS else happening.members


def _of_tenant(happening: Happening, before: State, after: State) -> Happening:
    for subject in (happening.about, happening.serves):
        if tenant := _tenant(subject, before, after):
            return msgspec.structs.replace(happening, tenant=tenant)
    return happening


def _tenant(subject: str, before: State, after: State) -> str:
    """Empty: it is no intent."""
    kind, _, name = subject.partition("/")
    if kind != "intents":
        return ""
    intent_record = after.intent_records.get(name) or before.intent_records.get(name)
    return intent_record.intent.tenant if intent_record is not None else ""


def _happening(about: str, what: str, why: str = "", **details: Any) -> Happening:
    return Happening(serial=0, time_s=0, about=about, what=what, why=why, **details)


def _resources(happening: Happening) -> list[Resource]:
    name = f"{happening.serial:010d}"
    if not happening.members:
        return [_resource(happening, name, happening.about)]
    return [_resource(happening, f"{name}.{place:06d}", member) for place, member in enumerate(happening.members)]


def _resource(happening: Happening, name: str, about: str) -> Resource:
    spec: dict[str, Any] = {
        "time_s": happening.time_s,
        "about": about,
        "what": happening.what,
        "why": happening.why,
        "by": happening.by,
    }
    if happening.serves:
        spec["serves"] = happening.serves
    metadata = {"name": name} | ({"tenant": happening.tenant} if happening.tenant else {})
    return Resource(kind="Event", metadata=metadata, spec=spec, status={})


def _told(phase: str, why: str) -> tuple[str, str]:
    return phase, why if phase in _LASTING else ""


def _done(reply: Reply, asked: Apply | Delete | Renew | SetDrain) -> Iterator[Happening]:
    if isinstance(asked, Apply) and asked.dry_run:
        return
    file = f"from {asked.file}" if isinstance(asked, Apply) and asked.file else ""
    for result in reply.results:
        about, _, what = result.partition(" ")
        if about.partition("/")[0] in PLURALS and what.split(" ")[0] in _DONE:
            yield _happening(about, what, file, by=asked.by.name)


def _moved(log: Log, before: State, after: State) -> Iterator[Happening]:
    """For each tenant one, of all its intents whose traffic takes the SR Policy."""
    name, around = log.fields["sr_policy"], log.fields["around"]
    members: dict[str, list[str]] = {}
    for stitch in map(after.stitches.__getitem__, after.stitches.by(sr_policy_key(name))):
        owner = stitch.plan.owner
        members.setdefault(_tenant(owner, before, after), []).append(owner)
    for tenant, owners in members.items():
        about = f"{SR_POLICIES}{name}"
        unique = tuple(dict.fromkeys(owners))
        yield _happening(about, "path moved", f"around {around}" if around else "", tenant=tenant, members=unique)


def _logged(log: Log, before: State, after: State) -> Iterator[Happening]:
    fields = dict(log.fields)
    why = fields.pop("reason", "")
    about = next((f"{kind}/{fields.pop(field)}" for field, kind in _SUBJECTS if field in fields), "")
    if about.startswith("agreements/") and "owner" not in fields:
        stitch = after.agreements.get(about.removeprefix("agreements/"))
        known = after.stitches.get(stitch or "") or before.stitches.get(stitch or "")
        serves = known.plan.owner if known is not None else ""
    else:
        serves = fields.pop("owner", "")
    if not about:
        about, serves = (serves, "") if serves else (f"domains/{fields.pop('peer', after.own)}", "")
    details = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in fields.items() if value)
    text = "; ".join(filter(None, (why, details)))
    what = log.event.replace("course", "path").replace("_", " ")
    yield _happening(about, what, text, serves=serves if serves != about else "")


def _unsettled_by(before: State, after: State) -> Iterator[str]:
    """Intents whose phase may be another after a step than before it."""
    touched = after.touched
    yield from touched.intent_records
    owners = {*touched.stitches, *touched.awaiting}
    if before.down is not after.down:
        owners.update(_cut(before), _cut(after))
    if before.services_down is not after.services_down:
        changed = before.services_down.keys() ^ after.services_down.keys()
        yield from after.intent_records.by(*map(service_key, changed))
    nodes = {name for name in touched.nodes if _standing(before, name) != _standing(after, name)}
    if nodes:
        owners.update(over(after.stitches, after.sr_policies, (), nodes))
        yield from after.intent_records.by(*map(node_key, nodes))
    for name in touched.sr_policies:
        policy = after.sr_policies.get(name)
        if policy is not None and policy.color.disjoint is not None:  # it may have lost or won its second path
            owners.update(after.stitches.by(sr_policy_key(name)))
    for name in owners:
        stitch = after.stitches.get(name) or before.stitches.get(name)
        owner = stitch.plan.owner if stitch is not None else name
        if owner.startswith("intents/"):
            yield owner.removeprefix("intents/")


def _cut(state: State) -> list[str]:
    """Stitches whose traffic takes a link that is down."""
    links = [link_key(name) for name in state.down]
    policies = [name for name in state.sr_policies.by(*links) if is_cut(state.sr_policies[name], state.down)]
    return state.stitches.by(*links, *map(sr_policy_key, policies))


def _standing(state: State, node: str) -> Collection[object]:
    standing = state.nodes.get(node)
    return (
        ()
        if standing is None
        else (standing.reachable, standing.rejected, standing.described, standing.confirmed == -1)
    )


def _in_flux(state: State) -> bool:
    """A node is about to say what it has: until then phases are those of a moment."""
    return any(node.reachable and node.confirmed == -1 and not node.rejected for node in state.nodes.values())
