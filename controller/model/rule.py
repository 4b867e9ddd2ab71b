"""What an operator lays down for all intents at once: when a condition holds, then something more is required."""

from controller.model.intent import Prefer, Require, Trust, Value


class Then(Value, frozen=True, kw_only=True):
    """What a rule (or a plugin) adds to an intent."""

    require: Require = Require()
    prefer: Prefer = Prefer()
    via: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    """`traffic`: it must not be carried at all; `transit`: not through a third domain."""
    service_class: str = ""
    dscp: int | None = None
    """Differentiated Services code point (RFC 2474) of the outer headers, in all domains on the way."""


class Rule(Value, frozen=True, kw_only=True):
    name: str
    when: str
    """A condition in CEL over `VARIABLES`, checked by language.condition."""
    then: Then
    priority: int = 100
    """Where two rules cannot both have their way (class, dscp, prefer), the higher has it."""
    explain: str
    """Why, for whoever meets it."""


class Added(Value, frozen=True, kw_only=True):
    """What a requirement compiler said of one intent, or why it said nothing."""

    plugin: str
    then: Then = Then()
    failure: str = ""


TRUST = {level.name.lower(): int(level) for level in Trust}
"""Constants of conditions, so that `source.trust >= partner` can be written."""

_END = {
    "network": "string",
    "domain": "string",
    "trust": "int",
    "domain_trust": "int",
    "labels": "list(string)",
    "prefixes": "list(string)",
}
VARIABLES: dict[str, dict[str, str] | str] = {
    "intent": {
        "name": "string",
        "tenant": "string",
        "class": "string",
        "priority": "int",
        "on_violation": "string",
        "isolates": "bool",
        "encryption": "string",
        "trust": "int",
        "latency_ms": "double",
        "via": "list(string)",
    },
    "source": _END,
    "destination": _END | {"service": "string", "ports": "list(string)"},
    "effective": {
        "class": "string",
        "encryption": "string",
        "trust": "int",
        "latency_ms": "double",
        "dscp": "int",
        "via": "list(string)",
    },
    "path": {"trust": "int"},
    **dict.fromkeys(TRUST, "int"),
}
"""What conditions may speak of, and its CEL type. `labels` are `name=value`, of the network and of all hosts and
services concerned. A latency without a bound is infinite. `effective` is what the intent and the rules so far make
together; `path` is a way that the traffic may take."""
MAX_ITEMS = 64
"""Of any list in them: what an evaluation may cost is counted with it."""
