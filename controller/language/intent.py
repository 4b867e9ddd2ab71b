"""How an intent is written."""

from typing import Any

from controller.language import scalars
from controller.language.shape import Field, Fields, Labels, ListOf, Scalar
from controller.model.intent import Allow, Encryption, Intent, Ports, Require, Selector

SELECTOR = Fields(
    fields={
        "network": Field(shape=scalars.NETWORK_NAME, required=True),
        "select": Field(shape=Labels(), to="labels"),
    },
    make=lambda values: Selector(**values),
)

PORT_LIST = ListOf(item=scalars.PORTS, most=64)

ALLOW = Fields(
    fields={
        "to": Field(shape=scalars.DESTINATION_NAME, required=True),
        "ports": Field(shape=PORT_LIST),
        "from": Field(shape=SELECTOR, to="source"),
    },
    make=lambda values: Allow(**values),
)


def _maximum(shape: Scalar) -> Fields:
    return Fields(fields={"max": Field(shape=shape, required=True)}, make=lambda values: values["max"])


def _minimum(shape: Scalar) -> Fields:
    return Fields(fields={"min": Field(shape=shape, required=True)}, make=lambda values: values["min"])


REQUIRE = Fields(
    fields={
        "latency_ms": Field(shape=_maximum(scalars.LATENCY_MAX_MS), to="latency_us_max"),
        "encryption": Field(shape=scalars.ENCRYPTION),
        "trust": Field(shape=_minimum(scalars.TRUST), to="trust_min"),
    },
    make=lambda values: Require(**values),
    later={
        "bandwidth_mbps": "reserved capacity",
        "loss_percent": "bounded loss",
        "disjoint": "disjoint paths",
        "avoid": "domains and labels to avoid",
    },
)


def _lease(values: dict[str, Any]) -> dict[str, Any]:
    if len(values) != 1:
        raise ValueError("expected one of for (a duration) and until (a time)")
    return values


LEASE = Fields(
    fields={
        "for": Field(shape=scalars.DURATION, to="lease_s"),
        "until": Field(shape=scalars.TIME, to="lease_until_s"),
    },
    make=_lease,
)


def _intent(values: dict[str, Any]) -> dict[str, Any]:
    isolate = values.get("isolate")
    if isolate is None and not values.get("allow"):
        raise ValueError("expected isolate, allow, or both: this intent says nothing")
    for index, allow in enumerate(values.get("allow", ())):
        if isolate is None and allow.source is None:
            raise ValueError(f"allow[{index}] needs `from`: only with isolate it is what is isolated")
        if isolate is not None and allow.source not in (None, isolate):
            raise ValueError(f"allow[{index}] has another `from` than what is isolated: write an intent of its own")
    lease: dict[str, Any] = values.get("lease", {})
    return {name: value for name, value in values.items() if name != "lease"} | lease


INTENT = Fields(
    fields={
        "isolate": Field(shape=SELECTOR),
        "allow": Field(shape=ListOf(item=ALLOW, most=256)),
        "require": Field(shape=REQUIRE),
        "on_violation": Field(shape=scalars.one_of("degrade", "stop")),
        "priority": Field(shape=scalars.integer(1, 1000)),
        "lease": Field(shape=LEASE),
    },
    make=_intent,
    later={
        "via": "services to pass",
        "prefer": "what to trade",
        "tests": "checks at every change",
        "overrides": "breaking an isolation of the same tenant",
    },
)


def _print_selector(selector: Selector) -> dict[str, Any]:
    return {"network": selector.network} | ({"select": dict(selector.labels)} if selector.labels else {})


def _print_ports(ports: tuple[Ports, ...]) -> dict[str, Any]:
    return {"ports": [scalars.print_ports(one) for one in ports]} if ports else {}


def _print_require(require: Require) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    if require.latency_us_max is not None:
        spec["latency_ms"] = {"max": scalars.unscaled(require.latency_us_max, 1000)}
    if require.encryption != Encryption.NONE:
        spec["encryption"] = str(require.encryption)
    if require.trust_min is not None:
        spec["trust"] = {"min": require.trust_min.name.lower()}
    return spec


def print_intent(intent: Intent) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    if intent.isolate is not None:
        spec["isolate"] = _print_selector(intent.isolate)
    if intent.allow:
        spec["allow"] = [
            {"to": allow.to}
            | _print_ports(allow.ports)
            | ({"from": _print_selector(allow.source)} if allow.source is not None else {})
            for allow in intent.allow
        ]
    if require := _print_require(intent.require):
        spec["require"] = require
    if intent.on_violation != "degrade":
        spec["on_violation"] = intent.on_violation
    if intent.priority != 100:
        spec["priority"] = intent.priority
    if intent.lease_s is not None:
        spec["lease"] = {"for": scalars.print_duration(intent.lease_s)}
    elif intent.lease_until_s is not None:
        spec["lease"] = {"until": scalars.print_time(intent.lease_until_s)}
    return spec
