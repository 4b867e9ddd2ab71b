"""200 domains that tell each other where they lead, in the simulator: a graph with few hubs and many leaves (power law,
Barabási and Albert 1999), keys, endpoints and trust typed in and nothing else.

    all are told of each other ── one withdraws what it offers ── another loses all its links
"""

from collections import Counter
from collections.abc import Iterable

import networkx
from msgspec.structs import replace

from bench.report import Row, row
from controller.model.policy import AdvertiseRule
from tests.many_domains import ALL, Domains, link_name, name_of

DOMAINS, LINKS_EACH, SEED = 200, 2, 1
PATIENCE_S = 60
WITHDRAWN, LOST = 50, 100
"""Whom it is tried with; both in the middle of the order in which domains came, so neither hubs nor the last."""


def rows(domains: int = DOMAINS) -> list[Row]:
    graph = networkx.barabasi_albert_graph(domains, LINKS_EACH, seed=SEED)
    world = Domains(domains, sorted((min(edge), max(edge)) for edge in graph.edges))
    world.checked = False
    world.start()
    everybody = set(range(domains))
    known_s = _until(world, everybody)
    silent = replace(ALL, advertise=(AdvertiseRule(to="*", what="d???", onward=True),))
    world.run(10.0)
    world.wiretap.clear()
    world.load_policy(name_of(WITHDRAWN % domains), silent)
    withdrawn_s = _until(world, everybody - {WITHDRAWN % domains})
    world.run(10.0)
    messages = [_most(world)]
    world.wiretap.clear()
    lost = LOST % domains
    for pair in sorted(world.pairs):
        if lost in pair:
            world.set_carrier(link_name(pair), False)
    lost_s = _until(world, everybody - {WITHDRAWN % domains, lost}, but=lost)
    world.run(10.0)
    messages.append(_most(world))
    name = f"know.advertised_{domains}"
    return [
        row(name, max(messages), "messages of a link and change, at most", better="lower", target=8),
        row(f"{name}_known_s", known_s, "s of the clock until all know all", better="lower", target=PATIENCE_S),
        row(f"{name}_withdrawn_s", withdrawn_s, "s until all have forgotten one", better="lower", target=PATIENCE_S),
        row(f"{name}_lost_s", lost_s, "s, of which all links are cut", better="lower", target=PATIENCE_S),
    ]


def _until(world: Domains, expected: Iterable[int], but: int = -1) -> float:
    """How long it takes until all know these and nobody else; more than anybody waits, where they never do."""
    began_s, names = world.now_s, {name_of(number) for number in expected}
    while world.now_s < began_s + 2 * PATIENCE_S:
        if all(_known(world, name) == names - {name} for name in world.controllers if name != name_of(but)):
            return world.now_s - began_s
        world.run(0.5)
    return 2 * PATIENCE_S


def _known(world: Domains, name: str) -> set[str]:
    """Domains to which one has a way and whose services it knows, by paths on which nobody is twice."""
    state = world.controllers[name].state
    paths = [(name, *heard.route.path) for heard in state.reaches.values()]
    assert all(len({*path}) == len(path) for path in paths)
    services = {service.split("/")[0] for service in state.inventory.services}
    reached = {path[-1] for path in paths}
    return (services | reached) - {name} if services - {name} == reached else set()


def _most(world: Domains) -> int:
    counted = Counter(
        frozenset((sender, receiver)) for sender, receiver, message in world.wiretap if message.kind == "routes"
    )
    return max(counted.values(), default=0)
