"""Resources -> the network graph."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from controller.model.inventory import DEFAULT_COST
from controller.model.network_graph import Attribute, Edge, EdgeKind, NetworkGraph, Vertex
from controller.model.phases import DISCOVERED
from controller.model.resource import Resource

KINDS = ("domains", "networks", "services", "nodes", "links")
"""Of the resources that it is made from."""
CAPABILITIES = ("dataplane", "kernel", "cpus", "h_encaps_segments", "srh_segments", "meters", "mtu", "tables")
"""Of a node."""


def network_graph(own: str, resources: Mapping[str, Iterable[Resource]]) -> NetworkGraph:
    """`resources`: all of each of KINDS."""
    parts = [
        part
        for kind, parts_of in _PARTS.items()
        for resource in resources[kind]
        for part in parts_of(own, str(resource.metadata["name"]), resource)
    ]
    vertices = {part.id: part for part in parts if isinstance(part, Vertex)}
    edges = {part.id: part for part in parts if isinstance(part, Edge)}
    for edge in edges.values():  # what is named and not declared, such as the domain of a network that is known
        for end in (edge.source, edge.target):
            kind, _, name = end.partition("/")
            vertices.setdefault(end, Vertex(id=end, kind=kind[:-1].capitalize(), name=name))
    return NetworkGraph(
        domain=own,
        vertices=tuple(vertices[name] for name in sorted(vertices)),
        edges=tuple(edges[name] for name in sorted(edges)),
    )


def _domain(own: str, name: str, domain: Resource) -> Iterator[Vertex | Edge]:
    here = f"domains/{name}"
    said = _picked(domain.spec, "sid_block") | {"own": name == own, "trust": domain.spec.get("trust", "public")}
    yield Vertex(id=here, kind="Domain", name=name, attributes=said)
    for reach in domain.spec.get("reach", ()):
        carried: dict[str, Attribute] = {
            "delay_ms": float(reach["latency_ms"]),
            "trust": str(reach["trust"]),
            "cost": int(reach.get("cost", DEFAULT_COST)),
        }
        yield _edge(EdgeKind.REACHES, here, f"domains/{reach['domain']}", carried)


def _network(own: str, name: str, network: Resource) -> Iterator[Vertex | Edge]:
    here, owner = f"networks/{name}", name.partition("/")[0]
    said = (
        _picked(network.spec, "prefixes", "tenants", "capabilities")
        | _picked(network.status, "phase")
        | _labels(network)
    )
    said |= {"own": owner == own, "owner": owner, "trust": network.spec.get("trust", "own")}
    yield Vertex(id=here, kind="Network", name=name, attributes=said)
    yield _edge(EdgeKind.OWNS, f"domains/{owner}", here)
    hosts = Counter(f"ports/{host['node']}/{host['port']}" for host in network.spec.get("attachments", ()))
    for port, count in sorted(hosts.items()):
        yield _edge(EdgeKind.ATTACHED, here, port, {"hosts": count})


def _service(_own: str, name: str, service: Resource) -> Iterator[Vertex | Edge]:
    here, network = f"services/{name}", name.rpartition("/")[0]
    said = _picked(service.spec, "addresses", "ports") | _labels(service) | {"owner": name.partition("/")[0]}
    yield Vertex(id=here, kind="Service", name=name, attributes=said)
    yield _edge(EdgeKind.OFFERS, f"networks/{network}", here)


def _node(own: str, name: str, node: Resource) -> Iterator[Vertex | Edge]:
    here = f"nodes/{name}"
    said = _picked(node.spec, "role", "locator") | _picked(node.status, "phase", "software", "wireguard")
    said |= _picked(node.status.get("capabilities", {}), *CAPABILITIES)
    yield Vertex(id=here, kind="Node", name=name, attributes=said | {"owner": own})
    yield _edge(EdgeKind.OWNS, f"domains/{own}", here)
    for port in node.status.get("ports", ()):
        at = f"ports/{name}/{port['number']}"
        said = _picked(port, "number", "interface", "role", "mac", "mtu", "carrier", "way") | {"node": name}
        yield Vertex(id=at, kind="Port", name=f"{name} port {port['number']}", attributes=said)
        yield _edge(EdgeKind.HAS, here, at)


def _link(own: str, name: str, link: Resource) -> Iterator[Vertex | Edge]:
    spec, status = link.spec, link.status
    said = _picked(spec, "mtu", "srlg") | _picked(status, "phase", "discovery", "carrier", "in_use")
    if status.get("phase") != DISCOVERED:
        said |= {
            "delay_ms": float(spec["delay_ms"]),
            "capacity_mbit": float(spec["rate_mbit"]),
            "reserved_mbit": 0.0,  # no intent can reserve any yet
            "cost": int(spec.get("cost", DEFAULT_COST)),
            "trust": spec.get("trust", "own"),
            "encrypted": "domain" in spec,  # what crosses a border does so in a tunnel; inside, links carry it as it is
        }
        loss = status["facts"].get("loss_percent")
        said |= {"loss_percent": float(loss["value"]), "loss_said_by": loss["source"]} if loss else {}
    said |= _labels(link) | _ends(spec) | {"name": name, "owner": own, "said_by": str(status["source"])}
    far = f"domains/{spec['domain']}" if "domain" in spec else f"nodes/{spec['b']['node']}" if "b" in spec else ""
    if not far:
        far = f"systems/{name}"
        heard = str(next((one["value"] for one in status.get("said", ())), name))
        yield Vertex(id=far, kind="System", name=heard)
    edge = _edge(EdgeKind.LINK, f"nodes/{spec['a']['node']}", far, said)
    yield Edge(id=f"links/{name}", kind=edge.kind, source=edge.source, target=edge.target, attributes=edge.attributes)


def _ends(spec: Mapping[str, Any]) -> dict[str, Attribute]:
    """Ports, or the border."""
    found: dict[str, Attribute] = {}
    for end in ("a", "b"):
        said = spec.get(end, {})
        found |= {f"{end}_{what}": said[what] for what in ("port", "border") if what in said}
    return found


_Parts = Callable[[str, str, Resource], Iterable[Vertex | Edge]]
_PARTS: dict[str, _Parts] = {
    "domains": _domain,
    "networks": _network,
    "services": _service,
    "nodes": _node,
    "links": _link,
}


def _edge(kind: EdgeKind, source: str, target: str, attributes: dict[str, Attribute] | None = None) -> Edge:
    return Edge(id=f"{kind} {source} {target}", kind=kind, source=source, target=target, attributes=attributes or {})


def _picked(said: Mapping[str, Any], *names: str) -> dict[str, Attribute]:
    """Of these what is said."""
    picked: dict[str, Attribute] = {}
    for name in names:
        value = said.get(name)
        if value or isinstance(value, bool | int | float):  # 0 says something, an empty text or list does not
            picked[name] = tuple(value) if isinstance(value, list) else value
    return picked


def _labels(resource: Resource) -> dict[str, Attribute]:
    labels = resource.metadata.get("labels") or {}
    return {"labels": dict(labels)} if labels else {}
