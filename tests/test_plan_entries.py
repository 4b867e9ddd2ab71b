"""Candidate paths that come to an end by parallel links: each goes by its own, in both directions."""

import pytest
from scapy.layers.l2 import Ether

from controller.fulfillment import numbering
from controller.fulfillment.meaning import Packet
from controller.model.agreement import Flow
from controller.model.entry import OwnedEntry
from controller.model.inventory import Attachment, Domain, Inventory, Link, LinkEnd, Network, Node
from controller.model.plan import Plan
from controller.model.requirements import Connection, Host
from controller.model.sr_policy import CandidatePath, SrPolicy, SrPolicyId
from controller.model.stitch import Stage, Stitch
from dataplane.reasons import L4Class
from tests.compiled_intents import Frames, mac, realized

A, B = "10.1.0.11", "10.2.0.10"
HOSTS = {
    name: Host(name=name, node=node, port=9, addresses=(numbering.host_prefix(address),))
    for name, node, address in (("a", "e1", A), ("b", "e2", B))
}
LINKS = {
    "first": (("e1", 1), ("e2", 1)),
    "second": (("e1", 2), ("e2", 2)),
    "over": (("e1", 3), ("t1", 3)),
    "further": (("t1", 1), ("e2", 3)),
    "beside": (("t1", 2), ("e2", 4)),
}
KNOWN = Inventory(
    domains={"shop": Domain(name="shop", sid_block="5f00:1::/32", own=True)},
    networks={
        f"shop/{host.name}": Network(
            name=f"shop/{host.name}",
            prefixes=host.addresses,
            attachments=(Attachment(name=host.name, node=host.node, port=9, addresses=(address,)),),
        )
        for host, address in zip(HOSTS.values(), (A, B), strict=True)
    },
    nodes={
        name: Node(name=name, role="edge", locator=f"5f00:1:{number}::/48", agent=f"unix:/{name}")
        for number, name in enumerate(("e1", "e2", "t1"), 1)
    },
    links={
        name: Link(
            name=name,
            a=LinkEnd(node=a[0], port=a[1]),
            b=LinkEnd(node=b[0], port=b[1]),
            delay_us=100,
            rate_bps=10**9,
            loss_percent=0.0,
            mtu=2000,
        )
        for name, (a, b) in LINKS.items()
    },
)
DIRECT, OVER = ("e1", "e2"), ("e1", "t1", "e2")
Path = tuple[tuple[str, ...], tuple[str, ...]]
FIRST, SECOND = (DIRECT, ("first",)), (DIRECT, ("second",))
FURTHER, BESIDE = (OVER, ("over", "further")), (OVER, ("over", "beside"))


def entries(paths: tuple[Path, Path]) -> dict[str, tuple[OwnedEntry, ...]]:
    """Of each node, where a may reach b by these candidate paths."""
    candidates = tuple(
        CandidatePath(preference=200 - place, nodes=nodes, links=links, latency_us=100)
        for place, (nodes, links) in enumerate(paths)
    )
    flow = Flow(
        source="shop/a",
        source_prefixes=HOSTS["a"].addresses,
        destination="shop/b",
        destination_prefixes=HOSTS["b"].addresses,
        ports=(),
    )
    connection = Connection(
        source_network="shop/a",
        destination_network="shop/b",
        destination_domain="shop",
        flows=(flow,),
        sources=(HOSTS["a"],),
        destinations=(HOSTS["b"],),
    )
    plan = Plan(
        name="i.0",
        owner="intents/i",
        connection=connection,
        ingress=None,
        egress=None,
        sr_policies=(SrPolicyId(headend="e1", endpoint="e2"),),
    )
    policy = SrPolicy(headend="e1", endpoint="e2", candidate_paths=candidates)
    return realized(KNOWN, [], [Stitch(plan=plan, serial=1, stage=Stage.ACTIVE)], [policy])


def taken(made: dict[str, tuple[OwnedEntry, ...]], live: int, *, back: bool) -> tuple[str, ...]:
    """The links that a packet takes from a to b (`back`: an answer), told by the MACs that it leaves nodes with."""
    ends = (B, A) if back else (A, B)
    packet = Packet(
        network="shop/b" if back else "shop/a", source=ends[0], destination=ends[1], l4_class=L4Class.UDP, source_port=9
    )
    frames = Frames(made, KNOWN, live)
    frames.ask_for(packet)
    outcome = frames.send(("e2" if back else "e1", 9), packet)
    assert outcome.delivered == ("a" if back else "b"), outcome.reason
    ports = {mac(*end): name for name, link in LINKS.items() for end in link}
    return tuple(ports[Ether(frame).src] for frame in outcome.frames[:-1])


@pytest.mark.parametrize("live", [1, 2])
@pytest.mark.parametrize(
    "paths",
    [(FIRST, SECOND), (SECOND, FIRST), (FURTHER, BESIDE), (BESIDE, FURTHER), (SECOND, BESIDE), (BESIDE, FIRST)],
    ids=lambda paths: " ".join(links[-1] for _, links in paths),
)
def test_each_candidate_path_takes_its_own_links(paths: tuple[Path, Path], live: int) -> None:
    made = entries(paths)
    _, links = paths[live - 1]
    assert taken(made, live, back=False) == links
    assert taken(made, live, back=True) == links[::-1]


def tails(made: dict[str, tuple[OwnedEntry, ...]], node: str) -> list[int]:
    return [
        entry.match[1].value
        for entry in made[node]
        if (entry.table, entry.action, entry.owner) == ("local_sid", "end_dt46", "intents/i")
    ]


def test_an_end_has_one_sid_whatever_links_lead_to_it() -> None:
    """The node before says by which link: End.X where the link is not the ordinary one."""
    for paths in ((SECOND, BESIDE), (FURTHER, BESIDE)):
        made = entries(paths)
        assert (len(tails(made, "e1")), len(tails(made, "e2"))) == (1, 1)
    end_x = {
        node: [entry.match[1].value >> 64 & 0xFFFF for entry in of_node if entry.action == "end_x"]
        for node, of_node in made.items()
    }
    assert end_x == {
        "e1": [numbering.END_X + 2],
        "e2": [numbering.END_X + port for port in (2, 3)],
        "t1": [numbering.END_X + 1],
    }
