"""The network graph: domains, networks, services, nodes, ports and links, as far as one domain knows of them.

Unlike the graph on which paths are found (fulfillment/graph.py) it has everything that is known, also what is not used.
"""

import enum
import hashlib

import msgspec

from controller.model.intent import Value

Attribute = bool | int | float | str | tuple[str, ...] | dict[str, str] | dict[str, int]


class EdgeKind(enum.StrEnum):
    OWNS = "owns"
    """A domain its networks and nodes."""
    OFFERS = "offers"
    """A network its services."""
    HAS = "has"
    """A node its ports."""
    ATTACHED = "attached"
    """A network, at a port where hosts of it are."""
    LINK = "link"
    """Between nodes, or from a node to a neighbouring domain."""
    REACHES = "reaches"
    """A neighbour another domain, as it says."""


class Vertex(Value, frozen=True, kw_only=True, gc=False):
    id: str
    """`nodes/se1`, `ports/se1/2`."""
    kind: str
    """Domain, Network, Service, Node, Port; System: what is heard at a port and is no node of the domain."""
    name: str
    attributes: dict[str, Attribute] = msgspec.field(default_factory=dict)
    """What is not known is not there."""


class Edge(Value, frozen=True, kw_only=True, gc=False):
    id: str
    kind: EdgeKind
    source: str
    """Id of a vertex. A link has no direction: what it says holds both ways."""
    target: str
    attributes: dict[str, Attribute] = msgspec.field(default_factory=dict)


class NetworkGraph(Value, frozen=True, kw_only=True):
    """Vertices and edges by their ids, which sort; an edge's ends are vertices."""

    domain: str
    """Whose picture it is."""
    revision: int = 0
    """Greater whenever anything of it has changed."""
    vertices: tuple[Vertex, ...]
    edges: tuple[Edge, ...]

    @property
    def digest(self) -> str:
        """Of all but the revision; made in pieces, since one call for a large graph would keep all threads waiting."""
        made = hashlib.blake2b(self.domain.encode(), digest_size=16)
        for parts in (self.vertices, self.edges):
            for part in parts:
                made.update(msgspec.json.encode(part))
        return made.hexdigest()
