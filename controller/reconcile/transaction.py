"""One step's work: the state as it changes, and what is to be done about it."""

from collections.abc import Mapping
from typing import Any

import msgspec

from controller.fulfillment.assembly import Made
from controller.fulfillment.capacity import needs_the_same
from controller.fulfillment.fabric import fabric
from controller.fulfillment.graph import Graph, graph
from controller.fulfillment.paths import sr_policy
from controller.fulfillment.plan_ids import plan_ids, sr_policy_ids
from controller.fulfillment.plan_paths import nodes
from controller.model.agreement import RENEWS, Envelope
from controller.model.event import Effect, Log, Persist, Record, Send
from controller.model.inventory import Inventory
from controller.model.keys import Keys
from controller.model.node_entries import Delta
from controller.model.sr_policy import SrPolicy
from controller.model.stitch import HeldOff, Session, Stitch
from controller.model.told import Told, Why
from controller.reconcile.changing_tables import AnyTable, SmallTable, Table
from controller.reconcile.identifiers import FOR_GOOD_S, Ended, Identifiers, NoNumber, sr_policy_numbers
from controller.reconcile.state import INVENTORY_TABLES, RECORDS, SR_POLICIES, Outgoing, State, Touched, read
from controller.reconcile.tables import bundle_key, named_sr_policies, sr_policy_key

UNASKED_MAX = 256
"""Answers to what one peer may send as it likes (refusals, and withdrawals of what is not known here) that wait for
it."""
FIELD_LENGTH = 400
"""Of a line of the log: what others say has no longer one."""


def understands(transaction: "Transaction", peer: str, capability: str) -> bool:
    """Whether the release of a neighbour that we have met can do this."""
    met = transaction.peers.get(peer)
    return met is not None and met.greeting is not None and capability in met.greeting.capabilities


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """A stitch of ours that ended without our wanting it."""

    stitch: Stitch
    why: str = ""
    """Where nobody refused it."""
    refusal: str = ""
    alone: bool = False
    """It is to be tried again with an agreement of its own."""
    retry_after_s: int = 0
    held_off: HeldOff | None = None


class Leaving(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle was when a stitch left it: what the neighbour is told if that was the last."""

    session: Session | None = None
    why: Why = Why(Told.UNWANTED, "it is not wanted any more")
    ended_by: str = ""
    """Domain whose operator has ended it."""
    retry_after_s: int = 0


class Transaction:
    """Lives for one step only."""

    def __init__(self, state: State, now_s: float, keys: Keys) -> None:
        self.before = state
        self.now_s = now_s
        self.keys = keys
        self.own = state.own
        self.policy = state.policy
        self.policy_loaded = state.policy_loaded
        self.domains = SmallTable(state.inventory.domains)
        self.networks = SmallTable(state.inventory.networks)
        self.services = SmallTable(state.inventory.services)
        self.inventory_nodes = SmallTable(state.inventory.nodes)
        self.links = SmallTable(state.inventory.links)
        self.aliases = SmallTable(state.inventory.aliases)
        self.rules = SmallTable(state.rules)
        self.rule_engine = state.rule_engine
        self.intent_records = Table(state.intent_records)
        self.stitches = Table(state.stitches)
        self.sr_policies = Table(state.sr_policies)
        self.bundles = Table(state.bundles)
        self.outbox = Table(state.outbox)
        self.closed = Table(state.closed)
        self.descriptions = SmallTable(state.descriptions)
        self.counters = Table(state.counters)
        self.routes = Table(state.routes)
        self.provenance = Table(state.provenance)
        self.agreements = Table(state.agreements)
        self.numbers = Table(state.numbers)
        self.last_numbers = Table(state.last_numbers)
        self.rests = Table(state.rests)
        self.ended = Ended()
        self.profiles = SmallTable(state.profiles)
        self.ids = Table(state.ids)
        self.taken = Table(state.taken)
        self.nodes = SmallTable(state.nodes)
        self.incidents = Table(state.incidents)
        self.tunnel_keys = SmallTable(state.tunnel_keys)
        self.findings, self.findings_seen = state.findings, state.findings_seen
        self.findings_beyond = state.findings_beyond
        self.suspicions = state.suspicions
        self.retries = Table(state.retries)
        self.peers = SmallTable(state.peers)
        self.down = SmallTable(state.down)
        self.services_down = SmallTable(state.services_down)
        self.doubts = SmallTable(state.doubts)
        self.stubs = SmallTable(state.stubs)
        self.drains = SmallTable(state.drains)
        self.losses = SmallTable(state.losses)
        self.link_delays = SmallTable(state.link_delays)
        self.delays = SmallTable(state.delays)
        self.way_back_s = SmallTable(state.way_back_s)
        self.without_way = set(state.without_way)
        self.ways_back: set[str] = set()
        """Neighbours that have just said that there may be a way."""
        self.reaches = Table(state.reaches)
        self.tellings = SmallTable(state.tellings)
        self.flaps = SmallTable(state.flaps)
        self.own_advertisements = state.own_advertisements
        self.advertises = state.advertises
        self.learnt = SmallTable(state.learnt)
        self.unadvertised = set(state.unadvertised)
        self.doubted: set[str] = set()
        """Domains to which a neighbour leads otherwise than before, or not any more."""
        self.awaiting = Table(state.awaiting)
        self.pursuits = Table(state.pursuits)
        self.restored = state.restored
        self.fabric = state.fabric
        self.realized = state.realized
        self.needed = state.needed
        self.unrealized, self.uncounted = state.unrealized.copy(), state.uncounted.copy()
        self.made = Made({}, {})
        self.claims = state.claims
        self.ticked_s = state.ticked_s
        self.audited_s = state.audited_s
        self.admitted: set[str] = set()
        """Courses that have begun in this step, and have room."""
        self.fresh: set[str] = set()
        """What has just changed on the nodes (plans, `intents/NAME`, `sr_policies/NAME`): its nodes' next generations
        are awaited."""
        self.joined: set[str] = set()
        """New links whose ends have what they need for them."""
        self.relieved: set[str] = set()
        """Plans that were made around links of which one is back, or that leave at a stub: another border may be
        better."""
        self.unsettled: set[str] = set()
        """Stitches over links that have gone down or come back, where more than paths may be other than before."""
        self.filling: dict[tuple[object, ...], tuple[str, tuple[int, int]]] = {}
        """Bundles that what this step begins goes into, by what they ask for: name, and how much is in them."""
        self.loose: dict[str, Leaving] = {}
        """Bundles whose flows may be other than what is agreed for them."""
        self.deltas: dict[str, Delta | None] = {}
        """Of the nodes whose generation is another than before; None: they had none."""
        self.resync: set[str] = set()
        """Nodes that have just said what they are."""
        self.lost: list[Lost] = []
        self.effects: list[Effect] = []
        self._graph = state.graph
        self._renewing: tuple[object, int, frozenset[str]] | None = None
        """As it was last asked for, of these ports and so many changes of peers."""
        self._inventory: tuple[tuple[int, ...], Inventory] | None = None
        """As it was last asked for, after so many changes of each table."""

    @property
    def identifiers(self) -> Identifiers:
        """Made where it is asked for: if it were kept, the two would hold each other, and with them the state before,
        until somebody looks for cycles."""
        return Identifiers(self.ids, self.taken, self.last_numbers, self.rests, self.ended, self._size)

    @property
    def clock_set_back(self) -> bool:
        """Then nobody knows what is due, and all of it is looked at."""
        return self.now_s < self.ticked_s

    @property
    def inventory(self) -> Inventory:
        tables = self._inventory_tables()
        if not any(table.changed for table in tables.values()):
            return self.before.inventory
        changes = tuple(table.changes for table in tables.values())
        if self._inventory is None or self._inventory[0] != changes:
            self._inventory = changes, Inventory(**{name: table.all for name, table in tables.items()})
        return self._inventory[1]

    @property
    def passed_by(self) -> tuple[str, ...]:
        """`nodes/NAME` and `links/NAME`, sorted."""
        return tuple(sorted({*self.stubs.all, *self.drains.all}))

    @property
    def graph(self) -> Graph:
        """What plans are made on: links that are down left out."""
        inventory, down, stubs = self.inventory, tuple(sorted(self.down.all)), self.passed_by
        known = self._graph.inventory if self._graph is not None else None
        same = all(getattr(known, table, None) is getattr(inventory, table) for table in INVENTORY_TABLES)
        losses, delays = self.losses.all, self.delays.all
        if (
            self._graph is None
            or not same
            or (self._graph.down, self._graph.stubs) != (down, stubs)
            or (self._graph.losses, self._graph.delays) != (losses, delays)
        ):
            self._graph = graph(inventory, self.own, down, self._graph, losses, stubs, delays)
        if self._graph.routes is not self.reaches.all or self._graph.renewing != self.renewing:
            self._graph = msgspec.structs.replace(self._graph, routes=self.reaches.all, renewing=self.renewing)
        if self._graph.services_down != (services_down := tuple(sorted(self.services_down.all))):
            self._graph = msgspec.structs.replace(self._graph, services_down=services_down)
        return self._graph

    @property
    def renewing(self) -> frozenset[str]:
        """Borders whose keys both sides can renew."""
        border_ports = self.fabric.border_ports
        if self._renewing is None or self._renewing[0] is not border_ports or self._renewing[1] != self.peers.changes:
            links = (
                link for link, port in border_ports.items() if port.renews and understands(self, port.domain, RENEWS)
            )
            self._renewing = border_ports, self.peers.changes, frozenset(links)
        return self._renewing[2]

    def graph_of(self, inventory: Inventory) -> Graph:
        """The same as `graph`, of what is to be known."""
        now = self.graph
        if inventory is now.inventory:
            return now
        made = graph(inventory, self.own, now.down, now, now.losses, now.stubs, now.delays)
        return msgspec.structs.replace(made, routes=now.routes, services_down=now.services_down, renewing=now.renewing)

    @property
    def inventory_changed(self) -> bool:
        return any(table.changed for table in self._inventory_tables().values())

    def _inventory_tables(self) -> dict[str, SmallTable[Any]]:
        return {
            "domains": self.domains,
            "networks": self.networks,
            "services": self.services,
            "nodes": self.inventory_nodes,
            "links": self.links,
            "aliases": self.aliases,
        }

    def refresh_fabric(self) -> None:
        """After the inventory, or what nodes say of themselves, has changed."""
        self.fabric = fabric(self.inventory, self.descriptions.all, self.own, self.fabric, self.down.all)

    def number(self, counter: str) -> int:
        value = (self.counters.get(counter) or 0) + 1
        self.counters.put(counter, value)
        return value

    def _size(self, node: str, table: str) -> int:
        profile = self.profiles.get(node)
        return profile.get(table, 0) if profile is not None else 0

    def put_stitch(self, stitch: Stitch) -> None:
        """With the numbers that its plan needs. Raises NoNumber."""
        before = self.stitches.get(stitch.plan.name)
        same = before is not None and before.plan is stitch.plan and before.wanted is stitch.wanted
        if not same:
            self._name_sr_policies(stitch)
        try:
            stitch = self._numbered(stitch, before)
        except NoNumber:
            self._forget_sr_policies(stitch)
            raise
        for session in (before.upstream, before.downstream) if before is not None else ():
            if session is not None:
                self.agreements.drop(session.terms.id)
        for session in (stitch.upstream, stitch.downstream):
            if session is not None:
                self.agreements.put(session.terms.id, stitch.plan.name)
        self.stitches.put(stitch.plan.name, stitch)
        if before is not None and not same:
            self._forget_sr_policies(before)
        if stitch.plan.bundle and stitch.downstream is not None:
            self.bundles.put(stitch.plan.bundle, stitch.downstream)
        elif stitch.plan.bundle:
            self.bundles.drop(stitch.plan.bundle)
        self.unrealized.stitches.add(stitch.plan.name)
        if before is None or not needs_the_same(before, stitch):
            self.uncounted.stitches.add(stitch.plan.name)

    def _numbered(self, stitch: Stitch, before: Stitch | None) -> Stitch:
        ids = before.ids if before is not None else {}
        if before is not None and before.plan is stitch.plan and before.wanted is stitch.wanted and ids:
            return stitch if stitch.ids is ids else msgspec.structs.replace(stitch, ids=ids)
        keys = plan_ids(stitch.plan)
        if stitch.wanted is not None:
            keys = tuple(sorted({*keys, *plan_ids(stitch.wanted)}))
        if ids.keys() == set(keys):
            return msgspec.structs.replace(stitch, ids=ids)
        new = self.identifiers.hold((key for key in keys if key not in ids), self.now_s)
        gone = {key: ids[key] for key in ids.keys() - set(keys)}
        if before is not None and gone:
            self.ended.add(gone, nodes(before.plan, self.sr_policies.all), FOR_GOOD_S)
        self.identifiers.release(gone)
        return msgspec.structs.replace(stitch, ids={key: new[key] if key in new else ids[key] for key in keys})

    def drop_stitch(self, stitch: Stitch) -> None:
        earlier = self.stitches.get(stitch.plan.name)
        if earlier is not None:
            self.identifiers.release(earlier.ids)
        for session in (stitch.upstream, stitch.downstream):
            if session is not None:
                self.agreements.drop(session.terms.id)
        self.stitches.drop(stitch.plan.name)
        self._forget_sr_policies(earlier if earlier is not None else stitch)
        if stitch.plan.bundle:
            self._leave(stitch)
        self.unrealized.stitches.add(stitch.plan.name)
        self.uncounted.stitches.add(stitch.plan.name)
        self.awaiting.drop(stitch.plan.name)
        self.fresh.discard(stitch.plan.name)

    def _leave(self, stitch: Stitch) -> None:
        bundle, session = stitch.plan.bundle, self.bundles.get(stitch.plan.bundle)
        self.loose.setdefault(bundle, Leaving(session=session))
        others = self.stitches.all.by(bundle_key(bundle))
        if others and session is not None:
            self.agreements.put(session.terms.id, others[0])
        elif not others:
            self.bundles.drop(bundle)

    def _name_sr_policies(self, stitch: Stitch) -> None:
        """Files those that nobody has named before. Raises NoNumber; then none."""
        for name, id in named_sr_policies(stitch).items():
            if self.sr_policies.get(name) is not None:
                continue
            policy = sr_policy(self.graph, id)
            assert policy is not None, f"{name}: a plan is made of what there is"
            try:
                numbers = self.identifiers.hold(sr_policy_ids(policy), self.now_s)
            except NoNumber:
                self._forget_sr_policies(stitch)
                raise
            first, second = (numbers[key] for key in sr_policy_ids(policy))
            self.put_sr_policy(msgspec.structs.replace(policy, around=self.graph.around, numbers=(first, second)))

    def put_sr_policy(self, policy: SrPolicy) -> None:
        """All that name it take these paths."""
        self.sr_policies.put(policy.id.name, policy)
        self.unrealized.sr_policies.add(policy.id.name)
        self.uncounted.sr_policies.add(policy.id.name)

    def _forget_sr_policies(self, stitch: Stitch) -> None:
        """Those of what it was that nobody names any more."""
        now = self.stitches.get(stitch.plan.name)
        still = named_sr_policies(now) if now is not None else {}
        for name in named_sr_policies(stitch):
            if name in still:
                continue
            policy = self.sr_policies.get(name)
            if policy is None or self.stitches.all.count(sr_policy_key(name)):
                continue
            numbers = sr_policy_numbers(policy)
            on_the_way = {node for path in policy.candidate_paths for node in path.nodes}
            ends = {policy.headend, policy.endpoint}
            self.ended.add(numbers, on_the_way | ends, FOR_GOOD_S)
            self.identifiers.release(numbers)
            self.sr_policies.drop(name)
            self.unrealized.sr_policies.add(name)
            self.uncounted.sr_policies.add(name)
            self.awaiting.drop(f"{SR_POLICIES}{name}")
            self.fresh.discard(f"{SR_POLICIES}{name}")

    def send(
        self, peer: str, message: Envelope, id: str, revision: int = 0, *, until_s: float, unasked: bool = False
    ) -> None:
        """At least once until `until_s`; what the outbox still has of this kind about the same agreement and revision
        is replaced. Of what is `unasked`, an answer to what a peer may send as it likes, the eldest gives way."""
        name = f"{message.kind}:{id}:{revision}"
        if unasked and name not in self.outbox.all and len(self.outbox.all) >= UNASKED_MAX:
            theirs = [name for name, waiting in self.outbox.all.items() if waiting.unasked and waiting.peer == peer]
            for eldest in theirs[: len(theirs) - UNASKED_MAX + 1]:
                self.drop_message(eldest)
        outgoing = Outgoing(peer=peer, message=message, about=id, until_s=int(until_s) + 1, unasked=unasked)
        self.outbox.put(name, outgoing)
        self.retries.drop(name)
        self.effects.append(Send(peer=peer, message_id=name, message=message))

    def drop_message(self, name: str) -> None:
        self.outbox.drop(name)
        self.retries.drop(name)

    def forget_messages(self, id: str) -> None:
        """What was still to be said about an agreement that has ended."""
        names = self.outbox.all.by(id)
        for name in names:
            self.drop_message(name)
        self.effects = [
            effect for effect in self.effects if not (isinstance(effect, Send) and effect.message_id in names)
        ]

    def log(self, event: str, level: str = "info", **fields: str) -> None:
        cut = {name: value[:FIELD_LENGTH] for name, value in fields.items()}
        self.effects.append(Log(event=event, fields=cut, level=level))

    def finish(self) -> tuple[State, tuple[Effect, ...]]:
        if self.claims is not None:
            self.claims.doubt(self.intent_records.touched)
        state = State(
            own=self.own,
            policy=self.policy,
            policy_loaded=self.policy_loaded,
            inventory=self.inventory,
            rules=self.rules.all,
            rule_engine=self.rule_engine,
            intent_records=self.intent_records.all,
            stitches=self.stitches.all,
            sr_policies=self.sr_policies.all,
            bundles=self.bundles.all,
            outbox=self.outbox.all,
            closed=self.closed.all,
            descriptions=self.descriptions.all,
            counters=self.counters.all,
            routes=self.routes.all,
            provenance=self.provenance.all,
            agreements=self.agreements.all,
            numbers=self.numbers.all,
            last_numbers=self.last_numbers.all,
            rests=self.rests.all,
            profiles=self.profiles.all,
            ids=self.ids.all,
            taken=self.taken.all,
            nodes=self.nodes.all,
            incidents=self.incidents.all,
            tunnel_keys=self.tunnel_keys.all,
            findings=self.findings,
            findings_seen=self.findings_seen,
            findings_beyond=self.findings_beyond,
            suspicions=self.suspicions,
            retries=self.retries.all,
            peers=self.peers.all,
            down=self.down.all,
            services_down=self.services_down.all,
            doubts=self.doubts.all,
            stubs=self.stubs.all,
            drains=self.drains.all,
            losses=self.losses.all,
            link_delays=self.link_delays.all,
            delays=self.delays.all,
            way_back_s=self.way_back_s.all,
            without_way=frozenset(self.without_way),
            reaches=self.reaches.all,
            tellings=self.tellings.all,
            flaps=self.flaps.all,
            own_advertisements=self.own_advertisements,
            advertises=self.advertises,
            learnt=self.learnt.all,
            unadvertised=frozenset(self.unadvertised),
            awaiting=self.awaiting.all,
            restored=self.restored,
            fabric=self.fabric,
            graph=self._graph,
            realized=self.realized,
            needed=self.needed,
            unrealized=self.unrealized,
            uncounted=self.uncounted,
            claims=self.claims,
            pursuits=self.pursuits.all,
            ticked_s=self.ticked_s,
            audited_s=self.audited_s,
            touched=Touched(
                intent_records=tuple(self.intent_records.touched),
                stitches=tuple(self.stitches.touched),
                sr_policies=tuple(self.sr_policies.touched),
                awaiting=tuple(self.awaiting.touched),
                nodes=tuple(self.nodes.touched),
            ),
        )
        records = self._records()
        return state, ((Persist(records=records), *self.effects) if records else tuple(self.effects))

    def _records(self) -> tuple[Record, ...]:
        """What is to be stored: of each thing that changed, what it is now. Raises ValueError where that could not be
        read again: then nothing of the step counts."""
        tables: dict[str, AnyTable] = {
            **self._inventory_tables(),
            "rules": self.rules,
            "intent_records": self.intent_records,
            "stitches": self.stitches,
            "sr_policies": self.sr_policies,
            "bundles": self.bundles,
            "outbox": self.outbox,
            "closed": self.closed,
            "descriptions": self.descriptions,
            "counters": self.counters,
            "routes": self.routes,
            "provenance": self.provenance,
            "numbers": self.numbers,
            "last_numbers": self.last_numbers,
            "rests": self.rests,
            "profiles": self.profiles,
            "drains": self.drains,
            "incidents": self.incidents,
            "tunnel_keys": self.tunnel_keys,
        }
        records = []
        for kind, (table, _) in RECORDS.items():
            changed_table = tables[table]
            for name in changed_table.touched:
                value, before = _as_stored(changed_table.get(name)), _as_stored(self._stored(table).get(name))
                if value == before:
                    continue
                content = None if value is None else msgspec.json.encode(value)
                records.append(record := Record(kind=kind, name=name, content=content))
                read(record)  # else the next start would find what it cannot read
        return tuple(records)

    def _stored(self, table: str) -> Mapping[str, Any]:
        holder = self.before.inventory if table in INVENTORY_TABLES else self.before
        stored: Mapping[str, Any] = getattr(holder, table)
        return stored


def _as_stored(value: Any) -> Any:
    """What stitches share is stored once, as their bundle."""
    if isinstance(value, Stitch) and value.plan.bundle:
        return msgspec.structs.replace(value, downstream=None)
    return value
