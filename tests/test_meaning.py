"""Two meanings agree: what the compiled entries do with a packet equals `permitted`, on generated intents and packets.

The bulk is evaluated by plain table semantics (longest prefix, highest priority), from the attachment to delivery;
the lab goes through the reference pipeline in tests/test_realize.py.
"""

import random
from collections.abc import Iterator, Mapping

import pytest

from controller.fulfillment import numbering
from controller.fulfillment.claims import Claim, Index, Places
from controller.fulfillment.conflict import Kind, against, misfit
from controller.fulfillment.fabric import fabric
from controller.fulfillment.graph import graph
from controller.fulfillment.meaning import Decision, Meaning, Packet
from controller.fulfillment.place import place
from controller.fulfillment.realize import Realized, realize
from controller.fulfillment.rulebook import rulebook
from controller.fulfillment.translate import translate
from controller.model.course import Course, Stage
from controller.model.entry import Entry
from controller.model.intent import Intent
from controller.model.inventory import Inventory
from controller.model.plan import Plan
from controller.model.requirements import Requirements
from dataplane.reasons import DropReason, L4Class
from tests import generated_intents as generated

CONFIGURATIONS, PACKETS = 100, 2000
PROTOCOLS = {L4Class.TCP_OPEN: 6, L4Class.TCP: 6, L4Class.UDP: 17}
Fields = dict[str, int]


class Node:
    """The tables of one node, looked up plainly."""

    def __init__(self, entries: tuple[Entry, ...]) -> None:
        self.tables: dict[str, dict[int, list[Entry]]] = {}
        for entry in entries:
            first = next((one.value for one in entry.match if one.field == "context"), 0)
            self.tables.setdefault(entry.table, {}).setdefault(first, []).append(entry)

    def look_up(self, table: str, fields: Fields) -> Entry | None:
        found = (one for one in self.tables.get(table, {}).get(fields.get("context", 0), ()) if _matches(one, fields))
        return max(found, key=lambda one: (one.priority, sum(m.prefix_length or 0 for m in one.match)), default=None)

    def value(self, table: str, fields: Fields) -> int:
        entry = self.look_up(table, fields)
        return entry.params[0][1] if entry is not None else 0

    def decide(self, context: int, packet: Packet) -> Entry | None:
        protocol = PROTOCOLS.get(packet.l4_class, 0)
        groups = {
            "source_group": self.value(
                "source_group", {"context": context, "address": numbering.address(packet.source)}
            ),
            "destination_group": self.value(
                "destination_group", {"context": context, "address": numbering.address(packet.destination)}
            ),
            "source_port_class": self.value("source_port_class", {"protocol": protocol, "port": packet.source_port}),
            "destination_port_class": self.value(
                "destination_port_class", {"protocol": protocol, "port": packet.destination_port}
            ),
        }
        return self.look_up("flow_policy", {"context": context, "l4_class": int(packet.l4_class), **groups})


def _matches(entry: Entry, fields: Fields) -> bool:
    for one in entry.match:
        value = fields[one.field]
        if one.prefix_length is not None:
            if value >> (128 - one.prefix_length) != one.value >> (128 - one.prefix_length):
                return False
        elif one.high is not None:
            if not one.value <= value <= one.high:
                return False
        elif (value if one.mask is None else value & one.mask) != one.value:
            return False
    return True


def walk(nodes: Mapping[str, Node], where: tuple[str, int], packet: Packet) -> tuple[bool, Entry | None, str]:
    """Whether every node on the way permits it, the entry that first decided, and where it would leave."""
    node, port = where
    at = nodes[node]
    if at.look_up("source_guard", {"ingress_port": port, "source": numbering.address(packet.source)}) is None:
        return False, None, "not admitted"
    context = at.value("attachment", {"ingress_port": port, "vlan_id": 0})
    first: Entry | None = None
    for _ in range(4):
        entry = at.decide(context, packet)
        first = first or entry
        if entry is None or entry.action != "permit":
            return False, first, "dropped"
        steer = at.look_up("steer", {"leg": entry.params[0][1]})
        assert steer is not None, entry
        if steer.action == "deliver":
            route = at.look_up("route", {"context": context, "destination": numbering.address(packet.destination)})
            return True, first, f"{node} {route.params[0][1]}" if route is not None else "no route"
        policy = dict(steer.params)["sr_policy"]
        sid = at.look_up("sr_policy", {"sr_policy": policy, "live": 3})
        assert sid is not None, steer
        last = dict(sid.params)["segment_list_0"]
        for name, other in nodes.items():
            local = other.look_up("local_sid", {"ingress_class": 1, "destination": last})
            if local is not None and local.action == "end_dt46":
                node, at, context = name, other, local.params[0][1]
                break
        else:
            raise AssertionError(f"nobody has the SID {last:x}")
    raise AssertionError("in circles")


def agreed(chance: random.Random, known: Inventory) -> list[Intent]:
    """Intents that can be in force together: by the conflict engine, so that what it misses shows up here."""
    places, index = Places(known), Index()
    found: list[Intent] = []
    for number in range(chance.randint(1, 8)):
        names = tuple(one.name for one in found)
        intent = generated.intent(chance, f"i{number}", known, names)
        if not isinstance(translate(intent, rulebook(()), known), Requirements):
            continue
        claim: Claim = places.claim(intent, serial=number, start_s=0, end_s=1)
        conflicts = against(claim, index, places)
        if misfit(claim, places) or any(one.kind == Kind.CONTRADICTION for one in conflicts):
            continue
        if any(one.tenant != intent.tenant for one in found if one.name in intent.overrides):
            continue
        index.add(claim)
        found.append(intent)
    return found


def compiled(intents: list[Intent], known: Inventory) -> dict[str, Node]:
    courses, isolations, slot = [], [], 0
    for serial, intent in enumerate(intents, 1):
        requirements = translate(intent, rulebook(()), known)
        assert isinstance(requirements, Requirements)
        isolations += [requirements.isolation] if requirements.isolation is not None else []
        for number, connection in enumerate(requirements.connections):
            plan = place(
                connection,
                graph(known, "shop"),
                name=f"{intent.name}.{number}",
                owner=f"intents/{intent.name}",
                priority=intent.priority,
                serial=serial,
            )
            assert isinstance(plan, Plan), plan
            slots = tuple(range(slot + 1, slot + 1 + len(plan.sr_policies)))
            slot = slots[-1]
            courses.append(Course(plan=plan, serial=-serial, slots=slots, stage=Stage.ACTIVE))
    courses.reverse()  # as if each intent had been changed since, the youngest first: that changes no ages
    indices = {name: index for index, name in enumerate(sorted(known.networks), 1)}
    found = realize(known, fabric(known, {}, "shop"), {}, indices, isolations, courses, Realized())
    return {name: Node(state.entries) for name, state in found.states.items()}


def packets(chance: random.Random, known: Inventory, count: int) -> Iterator[tuple[tuple[str, int], Packet]]:
    """From an attachment, of any source in the inventory; half of them between hosts."""
    there, contents = generated.addresses(known), generated.contents()
    for _ in range(count):
        network = known.networks[chance.choice(sorted(known.networks))]
        host = chance.choice(network.attachments)
        source = chance.choice(host.addresses) if chance.random() < 0.95 else chance.choice(there)
        alike = [one for one in there if (":" in one) == (":" in source) and one != source]
        kind, source_port, destination_port = chance.choice(contents)
        yield (
            (host.node, host.port),
            Packet(
                network=network.name,
                source=source,
                destination=chance.choice(alike),
                l4_class=kind,
                source_port=source_port,
                destination_port=destination_port,
            ),
        )


def agree(packet: Packet, decision: Decision, allowed: bool, first: Entry | None, where: str, known: Inventory) -> bool:
    """The same answer, from the same intent, and at the right host."""
    if decision.allowed != allowed:
        return False
    if not allowed:
        isolated = first is not None and dict(first.params).get("reason") == DropReason.ISOLATED
        return isolated == (decision.owner != "")
    ends = {
        f"{host.node} {numbering.ATTACHED_HOP + host.port}"
        for host in known.networks[decision.to].attachments
        if packet.destination in host.addresses
    }
    # hosts of one network behind different edges reach each other by permission, but no path leads there yet
    apart = where == "no route" and decision.owner.startswith("networks/")
    return first is not None and first.owner == decision.owner and (apart or where in ends)


@pytest.mark.parametrize("batch", range(4))
def test_entries_do_what_intents_permit(batch: int) -> None:
    carried = isolated = 0
    for seed in range(batch * CONFIGURATIONS // 4, (batch + 1) * CONFIGURATIONS // 4):
        chance = random.Random(seed)
        known = generated.inventory(chance, far=False)
        intents = agreed(chance, known)
        nodes = compiled(intents, known)
        meaning = Meaning(intents, known)
        for where, packet in packets(chance, known, PACKETS):
            source_is_theirs = any(
                packet.source in host.addresses
                for host in known.networks[packet.network].attachments
                if (host.node, host.port) == where
            )
            decision = meaning.of(packet) if source_is_theirs else Decision(allowed=False, because="source guard")
            allowed, first, end = walk(nodes, where, packet)
            carried += decision.owner.startswith("intents/") and decision.allowed
            isolated += decision.owner.startswith("intents/") and not decision.allowed
            assert agree(packet, decision, allowed, first, end, known), f"seed {seed}: " + "\n".join(
                map(str, (packet, decision, allowed, first, end, *intents))
            )
    assert carried > 100 and isolated > 100
