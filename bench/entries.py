"""How many entries an edge gets: intents of one host each that reach a whole network behind one of its ports.

Where each host has a port of its own, there are two entries more for each (attachment, next hop), whatever the intents.
"""

from collections import Counter
from collections.abc import Iterator

import msgspec

from bench.leaf_spine import Keys, described
from bench.report import Row, row
from controller import reconcile
from controller.language.manifest import applied, parse
from controller.language.policy import parse_policy
from controller.model.event import Applied, Apply, Event, NodeDescribed, NodeSynced, SyncNode, Tick
from controller.model.intent import Value
from controller.model.inventory import Attachment, Domain, Link, LinkEnd, Network, Node
from dataplane.host_api import NodeDescription, PortRole

OWN = "shop"
INTENTS, HOSTS = 51, 239
EDGES = ("near", "far")
HOST_PORT = 100


def rows() -> list[Row]:
    tables = destination_edge()
    print(f"{sum(tables.values())} entries: {dict(sorted(tables.items()))}")
    return [row("scale.entries_51x239", sum(tables.values()), "entries", better="lower", target=1200)]


def destination_edge() -> Counter[str]:
    """Its entries by table, when all intents are active."""
    state, _ = reconcile.initial((), OWN, parse_policy("accept: []\n", "policy.yaml"))
    keys = Keys()
    now_s = 1_800_000_000.0
    events: list[Event] = [
        Apply(request_id="inventory", resources=_inventory()),
        *(NodeDescribed(node=edge, description=_description(edge)) for edge in EDGES),
        Apply(request_id="intents", resources=tuple(_intents())),
    ]
    while events:
        state, effects = reconcile.step(state, events.pop(0), now_s, keys)
        events += [
            NodeSynced(node=effect.node, generation=effect.generation, writes=1, deviations=())
            for effect in effects
            if isinstance(effect, SyncNode) and not effect.audit
        ]
        if not events and any(stitch.stage != "Active" for stitch in state.stitches.values()):
            events.append(Tick())
        now_s += 0.001
    confirmed = state.nodes["far"].state
    assert confirmed is not None and len(state.stitches) == INTENTS
    return Counter(entry.table for entry in confirmed.entries)


def _inventory() -> tuple[Applied, ...]:
    values: list[Value] = [Domain(name=OWN, sid_block="5f00:1::/32", own=True, key=Keys.public_key)]
    for number, name in enumerate(EDGES, 1):
        values.append(Node(name=name, role="edge", locator=f"5f00:1:{number:x}::/48", agent=f"unix:/run/{name}"))
    a, b = (LinkEnd(node=name, port=1) for name in EDGES)
    values.append(Link(name="between", a=a, b=b, delay_us=100, rate_bps=10**10, loss_percent=0.0, mtu=9000))
    for edge, network, block, count in (("near", "clients", 10, INTENTS), ("far", "services", 11, HOSTS)):
        attachments = tuple(
            Attachment(
                name=f"h{host}",
                node=edge,
                port=HOST_PORT,
                addresses=(f"{block}.0.0.{host + 1}",),
                labels=(("app", f"h{host}"),),
            )
            for host in range(count)
        )
        gateways = (f"{block}.0.0.254",)
        values.append(
            Network(
                name=f"{OWN}/{network}",
                prefixes=(f"{block}.0.0.0/24",),
                gateways=gateways,
                attachments=attachments,
                tenants=("bench",),
            )
        )
    return tuple(Applied(kind=type(value).__name__, content=msgspec.json.encode(value)) for value in values)


def _intents() -> Iterator[Applied]:
    texts = (
        f"""---
apiVersion: netstitch/v1
kind: Intent
metadata: {{name: i{number}, tenant: bench}}
spec:
  allow: [{{from: {{network: {OWN}/clients, select: {{app: h{number}}}}}, to: {OWN}/services, ports: [tcp/443, icmp]}}]
"""
        for number in range(INTENTS)
    )
    return map(applied, parse("".join(texts)))


def _description(edge: str) -> NodeDescription:
    return described(edge, EDGES.index(edge) + 1, {1: PortRole.FABRIC, HOST_PORT: PortRole.ATTACHMENT})


if __name__ == "__main__":
    rows()
