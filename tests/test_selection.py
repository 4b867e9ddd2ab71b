"""Which service stands for what an intent describes: generated worlds against a plain twin that tries every service and
every way to it.

NETSTITCH_SELECTIONS says how many worlds (150), NETSTITCH_FUZZ_SEED which (else new ones; it is printed).
"""

import itertools
import os
import random
from collections.abc import Iterator
from fractions import Fraction
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from controller import reconcile
from controller.fulfillment.selection import GAIN_COST, GAIN_SHARE, GAIN_US, STAY_S
from controller.model.event import Applied, Apply, Reply
from controller.model.intent import (
    Allow,
    AnyService,
    Avoid,
    Encryption,
    Intent,
    Level,
    Ports,
    Prefer,
    Require,
    Selector,
    Trust,
)
from controller.model.inventory import (
    Attachment,
    Domain,
    Inventory,
    Link,
    LinkEnd,
    Network,
    Node,
    Reach,
    Service,
)
from controller.model.policy import Policy
from controller.model.selection import Selection, Verdict
from tests.simulator import START_S, SimulatedKeys

T = TypeVar("T")
WORLDS = int(os.environ.get("NETSTITCH_SELECTIONS", "150"))
OTHERS = ("ash", "birch", "cedar")
LABELS, CAPABILITIES = (("region", "eu"), ("region", "us"), ("tier", "1")), ("dns", "gpu", "region=eu")
HTTPS = (Ports(protocol="tcp", first=443, last=443),)
KEYS = SimulatedKeys("own")
Way = tuple[int, int, str, int]
"""Latency in us, cost, border, domains."""


def generated(chance: random.Random) -> tuple[Inventory, Intent]:
    """Small numbers, so that much is equal."""
    count = chance.randint(2, 5)
    nodes = {
        f"n{i}": Node(name=f"n{i}", role="edge", locator=f"5f00:1:{i + 1}::/48", agent="unix:/x") for i in range(count)
    }
    links = {}
    for a, b in itertools.combinations(range(count), 2):
        if chance.random() < 0.8:
            links[f"l{a}{b}"] = _link(
                chance, f"l{a}{b}", LinkEnd(node=f"n{a}", port=10 + b), b=LinkEnd(node=f"n{b}", port=10 + a)
            )
    for index, border in enumerate(chance.choices(OTHERS, k=chance.randint(0, 5))):
        end = LinkEnd(node=f"n{chance.randrange(count)}", border=f"b{index}")
        links[f"x{index}"] = _link(chance, f"x{index}", end, domain=border)
    domains = {
        "own": Domain(name="own", sid_block="5f00:1::/32", own=True, key=KEYS.public, certificate=KEYS.certificate)
    }
    for number, name in enumerate(OTHERS, 2):
        keys = SimulatedKeys(name)
        reach = tuple(
            Reach(
                domain=other,
                latency_us=chance.randint(0, 4) * 1000,
                trust=chance.choice(list(Trust)),
                cost=chance.randint(0, 4),
            )
            for other in OTHERS
            if other != name and chance.random() < 0.5
        )
        domains[name] = Domain(
            name=name,
            key=keys.public,
            certificate=keys.certificate,
            endpoint="127.0.0.1:7000",
            sid_block=f"5f00:{number}::/32",
            trust=chance.choice((Trust.PUBLIC, Trust.PARTNER)),
            reach=reach,
            labels=_some(chance, LABELS, 0.15),
        )
    networks = {
        "own/hosts": _network(
            chance, 0, "own/hosts", (Attachment(name="h", node="n0", port=1, addresses=("10.0.0.2",)),), ("t",)
        )
    }
    services: dict[str, Service] = {}
    for index in range(1, chance.randint(3, 8)):
        domain = chance.choice(("own", *OTHERS))
        name, address = f"{domain}/net{index}", f"10.0.{index}.2"
        attachment = Attachment(
            name=f"s{index}", node=f"n{chance.randrange(count)}", port=1 + index, addresses=(address,)
        )
        tenants = () if chance.random() < 0.1 else ("t",)
        networks[name] = _network(chance, index, name, (attachment,) if domain == "own" else (), tenants)
        called = f"{name}/{chance.choice(('dns', 'dns', 'dns', 'web'))}"
        services[called] = Service(
            name=called,
            addresses=(address,),
            ports=HTTPS if chance.random() < 0.9 else (Ports(protocol="icmp"),),
            labels=_some(chance, LABELS, 0.4),
        )
    asked = AnyService(
        service=chance.choice(("", "dns", "dns", "web")),
        labels=tuple(sorted(dict(chance.choices(LABELS, k=chance.choice((0, 0, 0, 1, 2)))).items())),
        capabilities=chance.choice(((), (), (), ("dns",), ("gpu",))),
        trust_min=chance.choice((*(None,) * 5, *Trust)),
    )
    if asked.service == "" and not asked.labels and not asked.capabilities:
        asked = replace(asked, service="dns")
    require = Require(
        latency_us_max=chance.choice((None, None, chance.randint(1, 16) * 1000)),
        loss_ppm_max=chance.choice((*(None,) * 8, 0, 2000)),
        encryption=chance.choice((Encryption.NONE, Encryption.NONE, Encryption.WIREGUARD)),
        trust_min=chance.choice((*(None,) * 5, *Trust)),
        avoid=Avoid(domains=_some(chance, OTHERS, 0.05), labels=_some(chance, LABELS, 0.05)),
    )
    intent = Intent(
        name="i",
        tenant="t",
        allow=(Allow(any=asked, ports=HTTPS, source=Selector(network="own/hosts")),),
        require=require,
        prefer=Prefer(cost=chance.choice((None, Level.LOW))),
    )
    return Inventory(domains=domains, networks=networks, services=services, nodes=nodes, links=links), intent


def _some(chance: random.Random, values: tuple[T, ...], share: float) -> tuple[T, ...]:
    return tuple(value for value in values if chance.random() < share)


def _link(chance: random.Random, name: str, a: LinkEnd, b: LinkEnd | None = None, domain: str = "") -> Link:
    return Link(
        name=name,
        a=a,
        b=b,
        domain=domain,
        delay_us=chance.randint(0, 6) * 1000,
        rate_bps=10**9,
        loss_percent=chance.choice((0.0, 0.0, 0.1, None)),
        mtu=1500 if domain else 2000,
        trust=chance.choice((Trust.OWN, Trust.OWN, Trust.OWN, Trust.PARTNER, Trust.PUBLIC)),
        cost=chance.randint(0, 6),
        labels=_some(chance, LABELS, 0.05),
    )


def _network(
    chance: random.Random, index: int, name: str, attachments: tuple[Attachment, ...], tenants: tuple[str, ...]
) -> Network:
    return Network(
        name=name,
        prefixes=(f"10.0.{index}.0/24",),
        gateways=(f"10.0.{index}.1",) if attachments else (),
        trust=chance.choice((Trust.OWN, Trust.OWN, Trust.OWN, Trust.PARTNER, Trust.PUBLIC)),
        labels=_some(chance, LABELS, 0.4),
        attachments=attachments,
        tenants=tenants,
        capabilities=_some(chance, CAPABILITIES, 0.6),
    )


# ---- the plain twin


def described(inventory: Inventory, intent: Intent) -> list[str]:
    """What is as described and may be led to."""
    asked, names = intent.allow[0].any, []
    assert asked is not None
    for service in inventory.services.values():
        network, domain = (
            inventory.networks[service.name.rpartition("/")[0]],
            inventory.domains[service.name.split("/")[0]],
        )
        said = {*service.labels, *network.labels, *domain.labels}
        said |= {("region", "eu")} if "region=eu" in network.capabilities else set()
        if domain.own and intent.tenant not in network.tenants and network.name.split("/")[1] != intent.tenant:
            continue
        if (
            asked.service in ("", service.name.split("/")[2])
            and set(asked.labels) <= said
            and set(asked.capabilities) <= set(network.capabilities)
        ):
            names.append(service.name)
    return names


def best(inventory: Inventory, intent: Intent, name: str) -> Way | None:
    """Of the ways to a service that hold all that is required, the most preferred."""
    service, network = inventory.services[name], inventory.networks[name.rpartition("/")[0]]
    domain, require, asked = inventory.domains[name.split("/")[0]], intent.require, intent.allow[0].any
    assert asked is not None
    trust = network.trust if domain.own else min(network.trust, domain.trust)
    least = require.trust_min or Trust.PUBLIC
    if (
        trust < max(least, asked.trust_min or Trust.PUBLIC)
        or domain.name in require.avoid.domains
        or service.ports != HTTPS
    ):
        return None
    if {*require.avoid.labels} & {*service.labels, *network.labels, *domain.labels}:
        return None
    ways = [way for way in _ways(inventory, intent, domain.name, network) if _in_time(way, require)]
    return min(ways, key=lambda way: (_rank(intent, way), way[2]), default=None)


def _in_time(way: Way, require: Require) -> bool:
    return require.latency_us_max is None or way[0] <= require.latency_us_max


def _rank(intent: Intent, way: Way) -> tuple[int, int]:
    return (way[1], way[0]) if intent.prefer.cost is Level.LOW else (way[0], way[1])


def _ways(inventory: Inventory, intent: Intent, target: str, network: Network) -> Iterator[Way]:
    require = intent.require
    if target == "own":
        for latency_us, cost in _inside(inventory, intent, network.attachments[0].node):
            yield latency_us, cost, "", 0
        return
    if require.avoid.labels or require.loss_ppm_max is not None:
        return  # of others that is not known
    for link in inventory.links.values():
        if not link.domain or link.domain in require.avoid.domains:
            continue
        neighbour = inventory.domains[link.domain]
        beyond = (
            [(0, 0, link.trust, 1)]
            if link.domain == target
            else [
                (reach.latency_us, reach.cost, min(link.trust, neighbour.trust, reach.trust), 2)
                for reach in neighbour.reach
                if reach.domain == target
            ]
        )
        for latency_us, cost, trust, domains in beyond:
            if trust >= (require.trust_min or Trust.PUBLIC):
                for inside_us, inside_cost in _inside(inventory, intent, link.a.node):
                    yield inside_us + link.delay_us + latency_us, inside_cost + link.cost + cost, link.name, domains


def _inside(inventory: Inventory, intent: Intent, target: str) -> Iterator[tuple[int, int]]:
    """Of every path from the source that holds what is required of links: latency and cost."""
    require = intent.require
    least = Trust.OWN if require.encryption == Encryption.WIREGUARD else require.trust_min or Trust.PUBLIC
    links = [
        link
        for link in inventory.links.values()
        if link.b is not None and link.trust >= least and not {*link.labels} & {*require.avoid.labels}
    ]

    def extend(node: str, passed: frozenset[str], taken: tuple[Link, ...]) -> Iterator[tuple[Link, ...]]:
        if node == target:
            yield taken
            return
        for link in links:
            ends = {link.a.node, link.b.node if link.b is not None else ""}
            if node in ends and not (ends - {node}) & passed:
                (far,) = ends - {node}
                yield from extend(far, passed | {far}, (*taken, link))

    for path in extend("n0", frozenset(["n0"]), ()):
        arrives = Fraction(1)
        for link in path:
            arrives *= 1 - Fraction(str(link.loss_percent or 0)) / 100
        unknown = any(link.loss_percent is None for link in path)
        if require.loss_ppm_max is None or (not unknown and 1 - arrives <= Fraction(require.loss_ppm_max, 1_000_000)):
            yield sum(link.delay_us for link in path), sum(link.cost for link in path)


def wanted(inventory: Inventory, intent: Intent) -> list[str]:
    """Services that hold what is required, the most preferred first."""
    ways = {name: way for name in described(inventory, intent) if (way := best(inventory, intent, name)) is not None}
    return sorted(ways, key=lambda name: (_rank(intent, ways[name]), ways[name][3], name))


def stays(inventory: Inventory, intent: Intent, before: Selection, now_s: float) -> str:
    """What is chosen where something was before."""
    names = wanted(inventory, intent)
    if before.chosen not in names:
        return names[0] if names else ""
    way, first = best(inventory, intent, before.chosen), best(inventory, intent, names[0])
    assert way is not None and first is not None
    mine, its = _rank(intent, way)[0], _rank(intent, first)[0]
    least = GAIN_COST if intent.prefer.cost is Level.LOW else GAIN_US
    gains = mine - its >= least and (mine - its) * GAIN_SHARE >= mine
    return names[0] if gains and now_s >= before.since_s + STAY_S else before.chosen


# ----


def applied(state: reconcile.State, now_s: float, *things: object) -> tuple[reconcile.State, Reply]:
    resources = tuple(Applied(kind=type(thing).__name__, content=msgspec.json.encode(thing)) for thing in things)
    state, effects = reconcile.step(state, Apply(request_id="r", resources=resources), now_s, KEYS)
    return state, next(effect for effect in effects if isinstance(effect, Reply))


def tables(inventory: Inventory) -> list[object]:
    return [
        thing
        for table in (inventory.domains, inventory.nodes, inventory.links, inventory.networks, inventory.services)
        for thing in table.values()
    ]


def difference(seed: str) -> tuple[str, int]:
    """What is chosen otherwise than by the plain twin, in a world and after it has changed (empty: nothing); and how
    many services hold what is required."""
    chance = random.Random(seed)
    inventory, intent = generated(chance)
    state, _ = reconcile.initial((), "own", Policy())
    state, reply = applied(state, START_S, *tables(inventory))
    assert not reply.problems and not reply.conflict, reply
    state, reply = applied(state, START_S, intent)
    assert reply.results, reply
    (selection,) = state.intent_records["i"].requirements.selections
    names = wanted(inventory, intent)
    found = [each.service for each in selection.considered if each.verdict in (Verdict.CHOSEN, Verdict.FALL_BACK)]
    if found != names or {each.service for each in selection.considered} != {*described(inventory, intent)}:
        return f"{selection}, but {names} hold what is required, in this order", 0
    now_s = START_S + chance.choice((30, 90))
    changed = {
        name: _link(chance, name, link.a, link.b, link.domain)
        for name, link in inventory.links.items()
        if chance.random() < 0.6
    }
    if not changed:
        return "", len(names)
    inventory = replace(inventory, links={**inventory.links, **changed})
    state, reply = applied(state, now_s, *changed.values())
    assert reply.results, reply
    (after,) = state.intent_records["i"].requirements.selections
    should = stays(inventory, intent, selection, now_s)
    holds = any(each.service == after.chosen and each.latency_us is not None for each in after.considered)
    if (after.chosen if holds else "") != should:
        return f"{after} after {selection}, but it should be {should}", 0
    return "", len(names)


def test_what_is_chosen_is_what_trying_every_service_and_way_finds() -> None:
    seed = os.environ.get("NETSTITCH_FUZZ_SEED", str(random.randrange(2**32)))
    print(f"NETSTITCH_FUZZ_SEED={seed} NETSTITCH_SELECTIONS={WORLDS}")
    several = 0
    for number in range(WORLDS):
        differs, holding = difference(f"{seed} {number}")
        assert not differs, (number, differs)
        several += holding > 1
    assert several > WORLDS // 20, "there is something to choose between"
