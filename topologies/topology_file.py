"""Topology files: YAML to `Topology`, or what is wrong and where.

    name: three-domains
    domains: {NAME: Domain}    nodes: {NAME: Node}    networks: {NAME: Network}    services: {NAME: Service}
    hosts: {NAME: Host}        links: [Link]

Fields are those of the records of `topologies.topology`; the key is the record's name.

`python -m topologies.topology_file TOPOLOGY` prints a topology as JSON.
"""

import re
import sys
from pathlib import Path
from typing import TypeVar

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from topologies import topology_checks
from topologies.problem import Path as FieldPath
from topologies.problem import Problem, TopologyInvalid
from topologies.topology import Domain, Host, Link, Network, Node, Service, Topology

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]
Record = TypeVar("Record", Domain, Node, Network, Service, Host, Link)

SIZE_MAX_BYTES = 1_000_000
_DEPTH_MAX = 20
_SECTIONS = ("name", "domains", "nodes", "networks", "services", "hosts", "links")
_OPTIONAL = ("services",)
DIRECTORY = Path(__file__).parent


def find(topology: str) -> Path:
    """The file of a topology given by path, or by the name of one that comes with netstitch (`three-domains`)."""
    shipped = DIRECTORY / f"{topology}.yaml"
    return shipped if "/" not in topology and not topology.endswith(".yaml") and shipped.exists() else Path(topology)


def load(path: Path) -> Topology:
    """Raises TopologyInvalid with all problems found, each with its line and column."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise TopologyInvalid(path, (Problem(1, 1, f"cannot be read: {error.strerror}"),)) from error
    if len(text) > SIZE_MAX_BYTES:
        raise TopologyInvalid(path, (Problem(1, 1, f"larger than {SIZE_MAX_BYTES} bytes: no topology file"),))
    try:
        document = YAML(typ="rt").load(text.decode())
    except UnicodeDecodeError as error:
        raise TopologyInvalid(path, (Problem(1, 1, f"not UTF-8 at byte {error.start}"),)) from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise TopologyInvalid(path, (Problem(line, column, f"not YAML: {error.problem or error.context}"),)) from error
    except YAMLError as error:
        raise TopologyInvalid(path, (Problem(1, 1, f"not YAML: {error}"),)) from error
    except RecursionError as error:
        raise TopologyInvalid(path, (Problem(1, 1, "nested too deeply"),)) from error
    reader = _Reader()
    topology = reader.topology(document)
    if topology is not None:
        reader.problems += [reader.problem(where, text) for where, text in topology_checks.problems(topology)]
    if topology is None or reader.problems:
        raise TopologyInvalid(path, tuple(sorted(reader.problems)))
    return topology


class _Reader:
    """Takes the document apart record by record, so that each has a position and one wrong record hides no other."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._positions: dict[FieldPath, tuple[int, int]] = {(): (1, 1)}

    def problem(self, where: FieldPath, text: str) -> Problem:
        """At the deepest known part of `where`."""
        known = where
        while known not in self._positions:
            known = known[:-1]
        line, column = self._positions[known]
        return Problem(line, column, text)

    def topology(self, document: object) -> Topology | None:
        plain = self._plain(document, (), 0)
        if self.problems:
            return None
        if not isinstance(plain, dict):
            self.problems.append(self.problem((), f"expected a mapping with {', '.join(_SECTIONS)}"))
            return None
        for section in plain:
            if section not in _SECTIONS:
                self.problems.append(
                    self.problem((section,), f"unknown section {section}: one of {', '.join(_SECTIONS)}")
                )
        for section in _SECTIONS:
            if section not in plain and section not in _OPTIONAL:
                self.problems.append(self.problem((), f"section {section} is missing"))
        name = plain.get("name")
        if not isinstance(name, str):
            self.problems.append(self.problem(("name",), "expected a name"))
        topology = Topology(
            name=str(name),
            domains=self._records(plain, "domains", Domain),
            nodes=self._records(plain, "nodes", Node),
            networks=self._records(plain, "networks", Network),
            services=self._records(plain, "services", Service),
            hosts=self._records(plain, "hosts", Host),
            links=self._links(plain),
        )
        return None if self.problems else topology

    def _records(self, document: dict[str, Plain], section: str, kind: type[Record]) -> tuple[Record, ...]:
        records = document.get(section, {})
        if not isinstance(records, dict):
            self.problems.append(self.problem((section,), f"{section}: expected a mapping of names"))
            return ()
        converted = (self._record((section, name), value, kind, name) for name, value in records.items())
        return tuple(record for record in converted if record is not None)

    def _links(self, document: dict[str, Plain]) -> tuple[Link, ...]:
        links = document.get("links", [])
        if not isinstance(links, list):
            self.problems.append(self.problem(("links",), "links: expected a list"))
            return ()
        records = (self._record(("links", index), value, Link, None) for index, value in enumerate(links))
        return tuple(link for link in records if link is not None)

    def _record(self, where: FieldPath, value: Plain, kind: type[Record], name: str | None) -> Record | None:
        if not isinstance(value, dict):
            self.problems.append(
                self.problem(where, f"expected a mapping with the fields of a {kind.__name__.lower()}")
            )
            return None
        if name is not None and "name" in value:
            self.problems.append(self.problem((*where, "name"), "the name is the key: no field of its own"))
            return None
        try:
            return msgspec.convert(value if name is None else {"name": name, **value}, kind)
        except msgspec.ValidationError as error:
            self.problems.append(self._described(where, value, str(error)))
            return None

    def _described(self, where: FieldPath, value: Plain, error: str) -> Problem:
        """msgspec says `Expected ... - at $.knows[...].reach[0].trust`; the position of that, as far as it is named."""
        text, _, at = error.partition(" - at ")
        inside: FieldPath = ()
        for name, index in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", at):
            if index == "...":
                break
            inside = (*inside, name or int(index))
        if unknown := re.search(r"unknown field `(\w+)`", text):
            inside = next(
                (
                    path[len(where) :]
                    for path in self._positions
                    if path[: len(where)] == where and path[-1] == unknown[1]
                ),
                inside,
            )
        shown = ".".join(map(str, (*where, *inside)))
        return self.problem((*where, *inside), f"{shown}: {text[:1].lower()}{text[1:]}")

    def _plain(self, value: object, where: FieldPath, depth: int) -> Plain:
        """The same without ruamel's types; their positions go to `_positions`."""
        if depth > _DEPTH_MAX:
            self.problems.append(self.problem(where, "nested too deeply"))
            return None
        match value:
            case CommentedMap():
                plain: dict[str, Plain] = {}
                for key, item in value.items():
                    line, column = value.lc.key(key)
                    self._positions[(*where, str(key))] = (line + 1, column + 1)
                    if not isinstance(key, str):
                        self.problems.append(
                            self.problem((*where, str(key)), f"expected a name, got {key!r}: quote it")
                        )
                        continue
                    plain[str(key)] = self._plain(item, (*where, str(key)), depth + 1)
                return plain
            case CommentedSeq():
                items: list[Plain] = []
                for index, item in enumerate(value):
                    line, column = value.lc.item(index)
                    self._positions[(*where, index)] = (line + 1, column + 1)
                    items.append(self._plain(item, (*where, index), depth + 1))
                return items
            case bool() | None:
                return value
            case int():
                return int(value)
            case float():
                return float(value)
            case str():
                return str(value)
            case _:
                self.problems.append(self.problem(where, f"expected text, a number or a list, got {value!r}: quote it"))
                return None


if __name__ == "__main__":
    try:
        print(msgspec.json.encode(load(find(sys.argv[1]))).decode())
    except TopologyInvalid as error:
        sys.exit(str(error))
