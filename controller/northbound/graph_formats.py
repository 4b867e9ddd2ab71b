"""The network graph as others read it: GraphML, node-link JSON (networkx, D3), DOT (Graphviz)."""

import enum
import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from controller.model.network_graph import Attribute, Edge, NetworkGraph, Vertex
from dataplane.visible import visible

_GRAPHML = "http://graphml.graphdrawing.org/xmlns"
_TYPES: dict[type, str] = {bool: "boolean", int: "long", float: "double"}


class GraphFormat(enum.StrEnum):
    GRAPHML = "graphml"
    JSON = "json"
    DOT = "dot"


MEDIA = {
    GraphFormat.GRAPHML: "application/graphml+xml",
    GraphFormat.JSON: "application/json",
    GraphFormat.DOT: "text/vnd.graphviz",
}


def written(graph: NetworkGraph, form: GraphFormat) -> str:
    """Equal graphs are equal texts, and end with a line break."""
    match form:
        case GraphFormat.GRAPHML:
            return _graphml(graph)
        case GraphFormat.JSON:
            return _json(graph)
        case GraphFormat.DOT:
            return _dot(graph)


def _of_vertex(vertex: Vertex) -> dict[str, Attribute]:
    return {"kind": vertex.kind, "name": vertex.name, **vertex.attributes}


def _of_edge(edge: Edge) -> dict[str, Attribute]:
    return {"kind": str(edge.kind), **edge.attributes}


def _json(graph: NetworkGraph) -> str:
    document: dict[str, Any] = {
        "directed": False,
        "multigraph": True,
        "graph": {"domain": graph.domain, "revision": graph.revision},
        "nodes": [{"id": vertex.id} | _of_vertex(vertex) for vertex in graph.vertices],
        "edges": [
            {"source": edge.source, "target": edge.target, "key": edge.id} | _of_edge(edge) for edge in graph.edges
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _graphml(graph: NetworkGraph) -> str:
    """http://graphml.graphdrawing.org/primer/graphml-primer.html; lists and labels are JSON there, which has none."""
    ET.register_namespace("", _GRAPHML)
    root = ET.Element(f"{{{_GRAPHML}}}graphml")
    about: dict[str, Attribute] = {"domain": graph.domain, "revision": graph.revision}
    said = {
        "graph": [about],
        "node": [_of_vertex(vertex) for vertex in graph.vertices],
        "edge": [_of_edge(edge) for edge in graph.edges],
    }
    keys: dict[tuple[str, str], str] = {}
    for subject, each in said.items():
        types = {name: _TYPES.get(type(value), "string") for attributes in each for name, value in attributes.items()}
        for name, kind in sorted(types.items()):
            keys[subject, name] = f"d{len(keys)}"
            declared = {"id": keys[subject, name], "for": subject, "attr.name": name, "attr.type": kind}
            ET.SubElement(root, f"{{{_GRAPHML}}}key", declared)
    body = ET.SubElement(root, f"{{{_GRAPHML}}}graph", {"id": graph.domain, "edgedefault": "undirected"})
    _put(body, "graph", about, keys)
    for vertex, attributes in zip(graph.vertices, said["node"], strict=True):
        _put(ET.SubElement(body, f"{{{_GRAPHML}}}node", {"id": vertex.id}), "node", attributes, keys)
    for edge, attributes in zip(graph.edges, said["edge"], strict=True):
        ends = {"id": edge.id, "source": edge.source, "target": edge.target}
        _put(ET.SubElement(body, f"{{{_GRAPHML}}}edge", ends), "edge", attributes, keys)
    ET.indent(root, " ")
    return ET.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _put(
    element: ET.Element, subject: str, attributes: Mapping[str, Attribute], keys: Mapping[tuple[str, str], str]
) -> None:
    for name, value in attributes.items():
        data = ET.SubElement(element, f"{{{_GRAPHML}}}data", {"key": keys[subject, name]})
        data.text = visible(_text(value))  # XML cannot say control characters at all


def _dot(graph: NetworkGraph) -> str:
    """https://graphviz.org/doc/info/lang.html; drawn are names, of links with their delay."""
    lines = [f"graph {_quoted(graph.domain)} {{", f" revision={graph.revision}"]
    lines += [
        f" {_quoted(vertex.id)} {_attributes({'label': vertex.name} | _of_vertex(vertex))}" for vertex in graph.vertices
    ]
    for edge in graph.edges:
        delay = edge.attributes.get("delay_ms")
        label: dict[str, Attribute] = {"label": f"{delay:g} ms"} if isinstance(delay, float) else {}
        ends = f"{_quoted(edge.source)} -- {_quoted(edge.target)}"
        lines.append(f" {ends} {_attributes(label | {'key': edge.id} | _of_edge(edge))}")
    return "\n".join([*lines, "}"]) + "\n"


def _attributes(attributes: Mapping[str, Attribute]) -> str:
    return "[" + ", ".join(f"{_quoted(name)}={_quoted(_text(value))}" for name, value in attributes.items()) + "]"


def _quoted(text: str) -> str:
    r"""In a DOT string only the quote is escaped by the language, and a backslash means something to who draws it."""
    return '"' + visible(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _text(value: Attribute) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case int() | float():
            return repr(value)
        case _:
            return json.dumps(value, ensure_ascii=False)
