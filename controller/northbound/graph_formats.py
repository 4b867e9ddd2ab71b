"""The network graph as others read it: GraphML, node-link JSON (networkx, D3), DOT (Graphviz)."""

import enum
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from xml.sax.saxutils import escape, quoteattr

import msgspec

from controller.model.network_graph import Attribute, Edge, NetworkGraph, Vertex
from controller.waited_for import waited_for
from dataplane.visible import visible

_GRAPHML = "http://graphml.graphdrawing.org/xmlns"
PIECE_LINES = 1000
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
    """Equal graphs are equal texts, and end with a line break.

    It is put together from pieces: one call for all of a large graph would keep all other threads waiting.
    """
    lines = _LINES[form](graph)
    pieces = iter(lambda: "".join(f"{line}\n" for line in itertools.islice(lines, PIECE_LINES)), "")
    return "".join(waited_for(pieces))


def _of_vertex(vertex: Vertex) -> dict[str, Attribute]:
    return {"kind": vertex.kind, "name": vertex.name, **vertex.attributes}


def _of_edge(edge: Edge) -> dict[str, Attribute]:
    return {"kind": str(edge.kind), **edge.attributes}


def _json(graph: NetworkGraph) -> Iterator[str]:
    yield '{"directed": false, "multigraph": true,'
    yield f' "graph": {_as_json({"domain": graph.domain, "revision": graph.revision})},'
    yield ' "nodes": ['
    yield from _separated(_as_json({"id": vertex.id} | _of_vertex(vertex)) for vertex in graph.vertices)
    yield ' ], "edges": ['
    ends = ({"source": edge.source, "target": edge.target, "key": edge.id} for edge in graph.edges)
    yield from _separated(_as_json(end | _of_edge(edge)) for end, edge in zip(ends, graph.edges, strict=True))
    yield " ]}"


def _as_json(value: Mapping[str, Attribute]) -> str:
    return msgspec.json.encode(value).decode()


def _separated(parts: Iterable[str]) -> Iterator[str]:
    """A line each, with a comma after each but the last."""
    before = None
    for part in parts:
        if before is not None:
            yield f"  {before},"
        before = part
    if before is not None:
        yield f"  {before}"


def _graphml(graph: NetworkGraph) -> Iterator[str]:
    """http://graphml.graphdrawing.org/primer/graphml-primer.html; lists and labels are JSON there, which has none."""
    about: dict[str, Attribute] = {"domain": graph.domain, "revision": graph.revision}
    keys: dict[tuple[str, str], str] = {}
    yield f"<graphml xmlns={quoteattr(_GRAPHML)}>"
    for subject, types in (
        ("graph", _types([about])),
        ("node", _types(map(_of_vertex, graph.vertices))),
        ("edge", _types(map(_of_edge, graph.edges))),
    ):
        for name, kind in sorted(types.items()):
            keys[subject, name] = f"d{len(keys)}"
            declared = {"id": keys[subject, name], "for": subject, "attr.name": name, "attr.type": kind}
            yield f" <key{_xml_attributes(declared)} />"
    yield f" <graph{_xml_attributes({'id': graph.domain, 'edgedefault': 'undirected'})}>"
    yield from _data("graph", about, keys, "  ", {})
    written_once: dict[tuple[str, str, str], str] = {}
    for vertex in graph.vertices:
        yield f"  <node{_xml_attributes({'id': vertex.id})}>"
        yield from _data("node", _of_vertex(vertex), keys, "   ", written_once)
        yield "  </node>"
    for edge in graph.edges:
        yield f"  <edge{_xml_attributes({'id': edge.id, 'source': edge.source, 'target': edge.target})}>"
        yield from _data("edge", _of_edge(edge), keys, "   ", written_once)
        yield "  </edge>"
    yield " </graph>"
    yield "</graphml>"


def _types(said: Iterable[Mapping[str, Attribute]]) -> dict[str, str]:
    return {name: _TYPES.get(type(value), "string") for attributes in said for name, value in attributes.items()}


def _data(
    subject: str,
    attributes: Mapping[str, Attribute],
    keys: Mapping[tuple[str, str], str],
    indent: str,
    written_once: dict[tuple[str, str, str], str],
) -> Iterator[str]:
    """`written_once`: what many say alike."""
    for name, value in attributes.items():
        text = _text(value)
        line = written_once.get((subject, name, text))
        if line is None:
            # XML cannot say control characters at all
            line = f'{indent}<data key="{keys[subject, name]}">{escape(visible(text))}</data>'
            written_once[subject, name, text] = line
        yield line


def _xml_attributes(attributes: Mapping[str, str]) -> str:
    return "".join(f" {name}={quoteattr(visible(value))}" for name, value in attributes.items())


def _dot(graph: NetworkGraph) -> Iterator[str]:
    """https://graphviz.org/doc/info/lang.html; drawn are names, of links with their delay."""
    yield f"graph {_quoted(graph.domain)} {{"
    yield f" revision={graph.revision}"
    for vertex in graph.vertices:
        yield f" {_quoted(vertex.id)} {_attributes({'label': vertex.name} | _of_vertex(vertex))}"
    for edge in graph.edges:
        delay = edge.attributes.get("delay_ms")
        label: dict[str, Attribute] = {"label": f"{delay:g} ms"} if isinstance(delay, float) else {}
        ends = f"{_quoted(edge.source)} -- {_quoted(edge.target)}"
        yield f" {ends} {_attributes(label | {'key': edge.id} | _of_edge(edge))}"
    yield "}"


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


_LINES: Mapping[GraphFormat, Callable[[NetworkGraph], Iterator[str]]] = {
    GraphFormat.GRAPHML: _graphml,
    GraphFormat.JSON: _json,
    GraphFormat.DOT: _dot,
}
