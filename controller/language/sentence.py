"""Intents as sentences (grammar: sentence.lark, docs/language.md), to the same values as manifests, and back.

A sentence becomes the `spec` of a manifest, with the place of each word; what it means, and what is wrong with it,
is decided where manifests are read. So neither front end can say what the other cannot.
"""

import functools
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from controller.language import bulk, quantity, scalars
from controller.language.fault import Fault, ManifestInvalid
from controller.language.manifest import API_VERSION, MAX_INTENT_BYTES, Document, read_intent
from controller.language.selector import parse_label, print_label, print_selector
from controller.language.shape import Flaw, Flaws, Path, nearest
from controller.language.tree import Position
from controller.model import dscp
from controller.model.intent import Allow, Encryption, Intent, IntentTest, Ports, Remediation, Require
from controller.model.rule import Then

FILE = "sentence"
"""Stands for the file in faults."""

_WORDS = {
    "DESTINATION": "a network or service such as insight/analytics/analytics-y",
    "NETWORK": "a network such as shop/customer-x",
    "LABEL": "a label such as app=web",
    "PREFIX": "a prefix such as 10.1.0.0/24",
    "PORTS": "ports such as tcp/443 or icmp",
    "SERVICE": "a service such as firewall",
    "SERVICE_NAME": "the last part of a service's name such as dns",
    "CAPABILITY_NAME": "a capability such as dns",
    "DOMAIN": "a domain",
    "NODE": "a node",
    "INTENT": "an intent's name",
    "REACTION": "degrade or stop",
    "DOWN_REACTION": "stop or bypass",
    "MODE": "off, propose or auto",
    "PRIORITY_NUMBER": "a number from 1 to 1000",
    "CLASS_NAME": "a class of service",
    "DURATION": "a duration such as 30d",
    "TIME": "a time such as 2030-01-31T12:00:00Z",
    "LATENCY_BOUND": "a latency such as 20ms",
    "BANDWIDTH_BOUND": "a rate such as 50Mbps",
    "LOSS_BOUND": "a share such as 0.1%",
    "ENCRYPTION_KIND": "none, wireguard, wireguard-pq or wireguard-end-to-end",
    "DISJOINT_KIND": "link, node or srlg",
    "TRUST_LEVEL": "public, partner or own",
    "LEVEL": "low",
    "SEMICOLON": "`;`",
    "COMMA": "`,`",
    "_AT_MOST": "`<=`",
    "_AT_LEAST": "`>=`",
    "$END": "the end",
}
"""What may stand where, in words."""


@functools.cache
def _grammar() -> Lark:
    text = files("controller.language").joinpath("sentence.lark").read_text()
    return Lark(text, parser="lalr", lexer="contextual", maybe_placeholders=False)


def parse_sentence(text: str, *, name: str, tenant: str) -> Document:
    """The intent as a document of the same form as a manifest's. Raises ManifestInvalid with places in `text`."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_INTENT_BYTES:
        raise _invalid(1, 1, f"the sentence is longer than {MAX_INTENT_BYTES:,} bytes")
    try:
        tree = _grammar().parse(text)
    except UnexpectedInput as error:
        raise _unexpected(text, error) from error
    words = _Words()
    spec = words.spec(tree)
    metadata = {"name": name, "tenant": tenant}
    data = {"apiVersion": API_VERSION, "kind": "Intent", "metadata": metadata, "spec": spec}
    flaws: Flaws = list(words.flaws)
    intent = None if flaws else bulk.convert(data) or read_intent(data, flaws)
    if intent is None:
        raise ManifestInvalid(tuple(_fault(flaw, words.positions) for flaw in flaws))
    return Document(
        kind="Intent", name=name, value=intent, data=data, file=FILE, positions={(): (1, 1), **words.positions}
    )


def _invalid(line: int, column: int, message: str) -> ManifestInvalid:
    return ManifestInvalid((Fault(file=FILE, line=line, column=column, message=message),))


def _fault(flaw: Flaw, positions: dict[Path, Position]) -> Fault:
    path = flaw.path
    line, column = next((positions[path[:end]] for end in range(len(path), -1, -1) if path[:end] in positions), (1, 1))
    where = "" if path[:1] == ("spec",) else "".join(f".{part}" for part in path).lstrip(".") + ": "
    return Fault(file=FILE, line=line, column=column, message=f"{where}{flaw.message}")


def _unexpected(text: str, error: UnexpectedInput) -> ManifestInvalid:
    match error:
        case UnexpectedToken():
            terminals, word = error.accepts or error.expected, str(error.token)
            if error.token.type == "$END":
                before = text.rstrip()
                line = before.count("\n") + 1
                return _invalid(
                    line, len(before) - (before.rfind("\n") + 1) + 1, f"it ends too early; {_one(terminals)}"
                )
        case UnexpectedCharacters():
            terminals, word = error.allowed or set(), text[error.pos_in_stream or 0 :][:1]
        case _:
            terminals, word = set(), ""
    keywords = sorted(_keyword(terminal) for terminal in terminals if terminal not in _WORDS)
    close = nearest(word, keywords) if keywords else ""
    hint = close if "did you mean" in close else ""
    shown = word if len(word) <= 60 else word[:57] + "..."
    return _invalid(error.line, error.column, f"{shown!r} is not expected here; {_one(terminals)}{hint}")


def _one(terminals: set[str]) -> str:
    """`expected ...`: first what it may be, then the keywords."""
    named = [_WORDS[word] for word in _WORDS if word in terminals]
    keywords = sorted(f"`{_keyword(terminal)}`" for terminal in terminals if terminal not in _WORDS)
    parts = [*keywords, *named]
    return "expected " + (" or ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts))


def _keyword(terminal: str) -> str:
    return terminal.lower()


class _Words:
    """Collects the spec of one sentence, the place of each of its parts, and what is wrong with single words."""

    def __init__(self) -> None:
        self.positions: dict[Path, Position] = {}
        self.flaws: Flaws = []
        self._spec: dict[str, Any] = {}

    def spec(self, tree: Tree[Token]) -> dict[str, Any]:
        for clause in _trees(tree):
            name = str(clause.data)
            getattr(self, f"_{name}")(clause, _first(clause))
        self._check_sources(tree)
        return self._spec

    # ---- clauses

    def _isolate(self, clause: Tree[Token], first: Token) -> None:
        if self._once("isolate", first):
            self._spec["isolate"] = self._selector(_child(clause, "selector"), ("spec", "isolate"))

    def _allow(self, clause: Tree[Token], first: Token) -> None:
        allows = self._spec.setdefault("allow", [])
        path: Path = ("spec", "allow", len(allows))
        described = [part for part in _trees(clause) if part.data == "any"]
        allow: dict[str, Any] = {
            "to": {"any": self._any(described[0], (*path, "to", "any"))}
            if described
            else self._text(first, (*path, "to"))
        }
        self.positions[path] = _place(first)
        allow |= self._ports(_child(clause, "ports"), path)
        sources = [part for part in _trees(clause) if part.data == "selector"]
        if sources:
            allow["from"] = self._selector(sources[0], (*path, "from"))
        allows.append(allow)

    def _via(self, clause: Tree[Token], first: Token) -> None:
        self._list("via", clause, first)

    def _overrides(self, clause: Tree[Token], first: Token) -> None:
        self._list("overrides", clause, first)

    def _require(self, clause: Tree[Token], first: Token) -> None:
        if self._once("require", first):
            require: dict[str, Any] = {}
            self._spec["require"] = require
            for need in _trees(clause):
                self._need(str(need.data), need, require)

    def _prefer(self, clause: Tree[Token], first: Token) -> None:
        if self._once("prefer", first):
            prefer: dict[str, Any] = {}
            self._spec["prefer"] = prefer
            for tree in _trees(clause):
                name, word = str(tree.data).removeprefix("prefer_"), _tokens(tree)[0]
                self._put(prefer, name, self._text(word, ("spec", "prefer", name)), word)

    def _on_violation(self, clause: Tree[Token], first: Token) -> None:
        self._single("on_violation", first)

    def _on_service_down(self, clause: Tree[Token], first: Token) -> None:
        self._single("on_service_down", first)

    def _class(self, clause: Tree[Token], first: Token) -> None:
        self._single("class", first)

    def _suspends(self, clause: Tree[Token], first: Token) -> None:
        self._list("suspends", clause, first)

    def _remediation(self, clause: Tree[Token], first: Token) -> None:
        self._single("remediation", first)

    def _priority(self, clause: Tree[Token], first: Token) -> None:
        if self._once("priority", first):
            self._spec["priority"] = self._made(first, ("spec", "priority"), _whole_number)

    def _for(self, clause: Tree[Token], first: Token) -> None:
        self._lease("for", first)

    def _until(self, clause: Tree[Token], first: Token) -> None:
        self._lease("until", first)

    def _test(self, clause: Tree[Token], first: Token) -> None:
        tests = self._spec.setdefault("tests", [])
        (expectation,) = _trees(clause)
        verdict = str(expectation.data).removeprefix("expect_")
        path: Path = ("spec", "tests", len(tests), verdict)
        destination = next(token for token in _tokens(expectation) if token.type == "DESTINATION")
        flow = {
            "from": self._selector(_child(expectation, "selector"), (*path, "from")),
            "to": self._text(destination, (*path, "to")),
        }
        self.positions[path] = _place(first)
        tests.append({verdict: flow | self._ports(_child(expectation, "ports"), path)})

    # ---- parts of clauses

    def _need(self, name: str, need: Tree[Token], require: dict[str, Any]) -> None:
        words = _tokens(need)
        word = words[0]
        path: Path = ("spec", "require")
        match name:
            case "latency":
                us = self._made(word, (*path, "latency_ms"), quantity.LATENCY_US.parse)
                self._put(require, "latency_ms", {"max": scalars.unscaled(us or 0, 1000)}, word)
            case "bandwidth":
                bps = self._made(word, (*path, "bandwidth_mbps"), quantity.BANDWIDTH_BPS.parse)
                self._put(require, "bandwidth_mbps", {"min": scalars.unscaled(bps or 0, 1_000_000)}, word)
            case "loss":
                ppm = self._made(word, (*path, "loss_percent"), quantity.parse_loss)
                self._put(require, "loss_percent", {"max": scalars.unscaled(ppm or 0, 10_000)}, word)
            case "trust":
                self._put(require, "trust", {"min": self._text(word, (*path, "trust"))}, word)
            case "avoid_domains" | "avoid_nodes" | "include_nodes":
                field, kind = name.split("_")
                path = (*path, field, kind)
                names = [self._text(word, (*path, index)) for index, word in enumerate(words)]
                self._put(require.setdefault(field, {}), kind, names, word)
            case "avoid_labels":
                labels = self._labels(words, (*path, "avoid", "labels"))
                self._put(require.setdefault("avoid", {}), "labels", labels, word)
            case _:
                self._put(require, name, self._text(word, (*path, name)), word)

    def _selector(self, selector: Tree[Token], path: Path) -> dict[str, Any]:
        network, *rest = _tokens(selector)
        self.positions[path] = _place(network)
        spec: dict[str, Any] = {"network": self._text(network, (*path, "network"))}
        labels = [word for word in rest if word.type == "LABEL"]
        prefixes = [word for word in rest if word.type == "PREFIX"]
        if labels:
            spec["select"] = self._labels(labels, (*path, "select"))
        if prefixes:
            spec["prefixes"] = [self._text(word, (*path, "prefixes", index)) for index, word in enumerate(prefixes)]
        return spec

    def _any(self, described: Tree[Token], path: Path) -> dict[str, Any]:
        spec: dict[str, Any] = {}
        for word in _tokens(described):
            if word.type == "SERVICE_NAME":
                spec["service"] = self._text(word, (*path, "service"))
        if labels := [word for word in _tokens(described) if word.type == "LABEL"]:
            spec["labels"] = self._labels(labels, (*path, "labels"))
        for need in _trees(described):
            word = _tokens(need)[0]
            if need.data == "trust":
                self._put(spec, "trust", {"min": self._text(word, (*path, "trust"))}, word)
            else:
                capabilities = spec.setdefault("capabilities", [])
                capabilities.append(self._text(word, (*path, "capabilities", len(capabilities))))
        return spec

    def _labels(self, words: list[Token], path: Path) -> dict[str, str]:
        labels: dict[str, str] = {}
        for word in words:
            pair = self._made(word, path, parse_label)
            if pair is not None:
                self.positions[(*path, pair[0])] = _place(word)
                self._put(labels, pair[0], pair[1], word)
        return labels

    def _ports(self, ports: Tree[Token], path: Path) -> dict[str, Any]:
        words = _tokens(ports)
        return (
            {"ports": [self._text(word, (*path, "ports", index)) for index, word in enumerate(words)]} if words else {}
        )

    def _single(self, name: str, word: Token) -> None:
        if self._once(name, word):
            self._spec[name] = self._text(word, ("spec", name))

    def _list(self, name: str, clause: Tree[Token], first: Token) -> None:
        if self._once(name, first):
            self._spec[name] = [self._text(word, ("spec", name, index)) for index, word in enumerate(_tokens(clause))]

    def _lease(self, name: str, word: Token) -> None:
        if self._once("lease", word):
            self._spec["lease"] = {name: self._text(word, ("spec", "lease", name))}

    # ---- words

    def _text(self, word: Token, path: Path) -> str:
        self.positions[path] = _place(word)
        return str(word)

    def _made(self, word: Token, path: Path, make: Callable[[str], Any]) -> Any:
        self.positions[path] = _place(word)
        try:
            return make(str(word))
        except ValueError as error:
            self._wrong(word, str(error))
            return None

    def _put(self, fields: dict[str, Any], name: str, value: Any, word: Token) -> None:
        if name in fields:
            self._wrong(word, f"{name.split('_')[0]} is given twice")
        fields[name] = value

    def _once(self, name: str, word: Token) -> bool:
        self.positions.setdefault(("spec", name), _place(word))
        if name not in self._spec:
            return True
        clause = "how long it holds (for, until)" if name == "lease" else f"clause `{name.replace('_', ' ')}`"
        self._wrong(word, f"{clause} is given twice; a sentence has it once")
        return False

    def _wrong(self, word: Token, message: str) -> None:
        path: Path = ("spec", "word", len(self.flaws))
        self.positions[path] = _place(word)
        self.flaws.append(Flaw(path=path, message=message))

    def _check_sources(self, tree: Tree[Token]) -> None:
        if "isolate" in self._spec:
            return
        for clause in _trees(tree):
            if clause.data == "allow" and not any(part.data == "selector" for part in _trees(clause)):
                word = _first(clause)
                self._wrong(word, f"who may reach {word}? expected `from` and a network: only with isolate it is that")


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise ValueError(f"{text[:40]!r} is none; expected a whole number from 1 to 1000")
    return int(text)


def _trees(tree: Tree[Token]) -> Iterator[Tree[Token]]:
    return (child for child in tree.children if isinstance(child, Tree))


def _tokens(tree: Tree[Token]) -> list[Token]:
    return [child for child in tree.children if isinstance(child, Token)]


def _first(tree: Tree[Token]) -> Token:
    token: Token = next(tree.scan_values(lambda value: isinstance(value, Token)))
    return token


def _child(tree: Tree[Token], name: str) -> Tree[Token]:
    return next(child for child in _trees(tree) if child.data == name)


def _place(word: Token) -> Position:
    return word.line or 1, word.column or 1


# ---- and back


def print_sentence(intent: Intent) -> str:
    """In one line; parsing it gives an equal intent (name and tenant stand beside it)."""
    return "; ".join(clauses(intent))


def clauses(intent: Intent) -> Iterator[str]:
    if intent.isolate is not None:
        yield f"isolate {print_selector(intent.isolate)}"
    for allow in intent.allow:
        source = f" from {print_selector(allow.source)}" if allow.source is not None else ""
        yield f"allow {destination(allow)}{_print_ports(allow.ports)}{source}"
    if intent.via:
        yield f"via {' '.join(intent.via)}"
    if needs := list(_needs(intent.require)):
        yield f"require {', '.join(needs)}"
    if preferred := str(intent.prefer):
        yield f"prefer {preferred}"
    yield f"on violation {intent.on_violation}"
    if intent.on_service_down != "stop":
        yield f"on service down {intent.on_service_down}"
    yield f"priority {intent.priority}"
    if intent.service_class:
        yield f"class {intent.service_class}"
    if intent.overrides:
        yield f"overrides {' '.join(intent.overrides)}"
    if intent.suspends:
        yield f"suspends {' '.join(intent.suspends)}"
    if intent.remediation != Remediation.PROPOSE:
        yield f"remediation {intent.remediation}"
    if intent.lease_s is not None:
        yield f"for {scalars.print_duration(intent.lease_s)}"
    elif intent.lease_until_s is not None:
        yield f"until {scalars.print_time(intent.lease_until_s)}"
    for test in intent.tests:
        yield print_test(test)


def destination(allow: Allow) -> str:
    """Its name, or what is asked of it: `any service dns in region=eu with trust >= partner`."""
    asked = allow.any
    if asked is None:
        return allow.to
    words = ["any service"]
    if asked.service:
        words.append(asked.service)
    if asked.labels:
        words.append(f"in {' '.join(print_label(*label) for label in asked.labels)}")
    needs = [f"capability {capability}" for capability in asked.capabilities]
    if asked.trust_min is not None:
        needs.append(f"trust >= {asked.trust_min.name.lower()}")
    if needs:
        words.append(f"with {', '.join(needs)}")
    return " ".join(words)


def print_consequence(then: Then) -> str:
    """What a rule does, in the same words: `require trust >= partner; dscp EF`."""
    clauses = {
        "require": ", ".join(_needs(then.require)),
        "prefer": str(then.prefer),
        "via": " ".join(then.via),
        "forbid": " ".join(then.forbid),
        "class": then.service_class,
        "dscp": dscp.words(then.dscp) if then.dscp is not None else "",
    }
    return "; ".join(f"{clause} {words}" for clause, words in clauses.items() if words)


def _needs(require: Require) -> Iterator[str]:
    if require.latency_us_max is not None:
        yield f"latency <= {quantity.LATENCY_US.print(require.latency_us_max)}"
    if require.bandwidth_bps_min is not None:
        yield f"bandwidth >= {quantity.BANDWIDTH_BPS.print(require.bandwidth_bps_min)}"
    if require.loss_ppm_max is not None:
        yield f"loss <= {quantity.print_loss(require.loss_ppm_max)}"
    if require.encryption != Encryption.NONE:
        yield f"encryption {require.encryption}"
    if require.disjoint is not None:
        yield f"disjoint {require.disjoint}"
    if require.trust_min is not None:
        yield f"trust >= {require.trust_min.name.lower()}"
    if require.avoid.domains:
        yield f"avoid domains {' '.join(require.avoid.domains)}"
    if require.avoid.labels:
        yield f"avoid labels {' '.join(print_label(*label) for label in require.avoid.labels)}"
    if require.avoid.nodes:
        yield f"avoid nodes {' '.join(require.avoid.nodes)}"
    if require.include_nodes:
        yield f"include nodes {' '.join(require.include_nodes)}"


def print_test(test: IntentTest) -> str:
    verdict = "allow" if test.allowed else "deny"
    return f"test {verdict} {print_selector(test.source)} to {test.to}{_print_ports(test.ports)}"


def _print_ports(ports: tuple[Ports, ...]) -> str:
    return "".join(f" {scalars.print_ports(port)}" for port in ports)
