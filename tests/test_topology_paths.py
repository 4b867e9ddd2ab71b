"""Paths through topologies, with bounds, exclusions and links that are down, against networkx and brute force."""

import random

import networkx
import pytest

from controller.fulfillment import topology as engine
from controller.fulfillment.topology import Demand, FoundPath, Topology, TopologyLink

Rank = tuple[int, int, int]


def links_between(chance: random.Random, nodes: int, count: int, most: int) -> list[TopologyLink]:
    ends = [chance.sample(range(nodes), 2) for _ in range(count)]
    return [
        TopologyLink(
            f"l{index:04}",
            f"n{a:04}",
            f"n{b:04}",
            chance.randint(0, most),
            chance.randint(0, most),
            chance.randint(0, 2),
        )
        for index, (a, b) in enumerate(ends)
    ]


def taken(demand: Demand, down: set[str], link: TopologyLink, index: int, nodes: dict[str, int]) -> bool:
    ends = {nodes[link.a], nodes[link.b]}
    return (
        link.trust >= demand.trust_min
        and link.name not in down
        and index not in demand.without_links
        and ends.isdisjoint(demand.without_nodes)
    )


def rank_of(demand: Demand, delay_us: int, cost: int, hops: int) -> Rank:
    return (cost, delay_us, hops) if demand.prefer_cost else (delay_us, cost, hops)


def check(topology: Topology, links: list[TopologyLink], path: FoundPath, demand: Demand, down: set[str]) -> Rank:
    """Its rank, if it is a path, and as long as it says."""
    taken_links = [links[index] for index in path.links]
    assert len(set(path.nodes)) == len(path.nodes) == len(path.links) + 1
    for near, far, link, index in zip(path.nodes, path.nodes[1:], taken_links, path.links, strict=False):
        assert {topology.nodes[near], topology.nodes[far]} == {link.a, link.b}
        assert taken(demand, down, link, index, topology.node_index)
    delay_us, cost = sum(link.delay_us for link in taken_links), sum(link.cost for link in taken_links)
    assert (path.delay_us, path.cost) == (delay_us, cost)
    assert len(path.links) <= demand.hops_max
    assert demand.delay_us_max is None or delay_us <= demand.delay_us_max
    return rank_of(demand, delay_us, cost, len(path.links))


@pytest.fixture(params=[2, engine.GUIDED_FROM], ids=["guided", "not guided"])
def landmarks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small topologies are also searched as large ones are."""
    monkeypatch.setattr(engine, "GUIDED_FROM", request.param)


@pytest.mark.usefixtures("landmarks")
def test_path_is_the_most_preferred_of_all_that_hold_the_demand() -> None:
    for seed in range(600):
        chance = random.Random(seed)
        nodes = chance.randint(2, 8)
        links = links_between(chance, nodes, chance.randint(0, 16), 6)
        topology = Topology((f"n{index:04}" for index in range(nodes)), links)
        demand = Demand(
            prefer_cost=chance.random() < 0.5,
            trust_min=chance.randint(0, 1),
            delay_us_max=chance.choice([None, chance.randint(0, 20)]),
            hops_max=chance.randint(1, 6),
            without_nodes=tuple(node for node in range(2, nodes) if chance.random() < 0.15),
            without_links=tuple(index for index in range(len(links)) if chance.random() < 0.1),
        )
        down = {link.name for link in links if chance.random() < 0.1}
        known = networkx.MultiGraph()
        known.add_nodes_from(topology.nodes)
        for index, link in enumerate(links):
            if taken(demand, down, link, index, topology.node_index):
                known.add_edge(link.a, link.b, key=index)
        ranks = []
        for edges in networkx.all_simple_edge_paths(known, "n0000", "n0001"):
            way = [links[index] for _, _, index in edges]
            delay_us, cost = sum(link.delay_us for link in way), sum(link.cost for link in way)
            if len(way) <= demand.hops_max and (demand.delay_us_max is None or delay_us <= demand.delay_us_max):
                ranks.append(rank_of(demand, delay_us, cost, len(way)))
        path = topology.path(0, 1, demand, topology.flags(down))
        assert (path is None) == (not ranks), seed
        if path is not None:
            assert check(topology, links, path, demand, down) == min(ranks), seed


def test_paths_of_a_large_topology_equal_networkx() -> None:
    chance = random.Random(7)
    links = links_between(chance, 400, 1600, 10_000)
    topology = Topology((f"n{index:04}" for index in range(400)), links)
    down = {link.name for link in links if chance.random() < 0.1}
    flags = topology.flags(down)
    known = networkx.MultiGraph()
    known.add_nodes_from(topology.nodes)
    for link in links:
        if link.name not in down:
            known.add_edge(link.a, link.b, weight=link.delay_us)
    for source in range(0, 400, 40):
        lengths = networkx.single_source_dijkstra_path_length(known, topology.nodes[source])
        weight = topology.tree(source, Demand(), flags).weight.tolist()
        for target, name in enumerate(topology.nodes):
            path = topology.path(source, target, Demand(), flags)
            assert (path is None) == (name not in lengths)
            assert weight[target] == lengths.get(name, -1)
            if path is not None:
                assert check(topology, links, path, Demand(), down)[0] == lengths[name]


def test_a_link_to_nowhere_is_named() -> None:
    with pytest.raises(ValueError, match="leads to z"):
        Topology(["x", "y"], [TopologyLink("a", "x", "z", 1, 1, 0)])
