"""How an intent is written."""

from typing import Any

from controller.language import scalars
from controller.language.selector import SELECTOR
from controller.language.shape import Field, Fields, Labels, ListOf, Scalar, TextOr
from controller.model.intent import (
    Allow,
    AnyService,
    Avoid,
    Encryption,
    Intent,
    IntentTest,
    Ports,
    Prefer,
    Remediation,
    Require,
    Selector,
)

ANY_MAX = 16
"""Clauses of an intent that describe a service."""
PORT_LIST = ListOf(item=scalars.PORTS, most=64)


def _maximum(shape: Scalar) -> Fields:
    return Fields(fields={"max": Field(shape=shape, required=True)}, make=lambda values: values["max"])


def _minimum(shape: Scalar) -> Fields:
    return Fields(fields={"min": Field(shape=shape, required=True)}, make=lambda values: values["min"])


def any_service(values: dict[str, Any]) -> AnyService:
    """Raises ValueError."""
    if not (values.get("service") or values.get("labels") or values.get("capabilities")):
        raise ValueError("expected a service's name, labels or capabilities: any service at all is none")
    capabilities = tuple(sorted({*values.get("capabilities", ())}))
    return AnyService(**(values | {"capabilities": capabilities}))


ANY_SERVICE = Fields(
    fields={
        "service": Field(shape=scalars.ANY_SERVICE_NAME),
        "labels": Field(shape=Labels()),
        "capabilities": Field(shape=ListOf(item=scalars.CAPABILITY, most=64)),
        "trust": Field(shape=_minimum(scalars.TRUST), to="trust_min"),
    },
    make=any_service,
)

ALLOW = Fields(
    fields={
        "to": Field(
            shape=TextOr(
                text=scalars.DESTINATION_NAME,
                mapping=Fields(
                    fields={"any": Field(shape=ANY_SERVICE, required=True)}, make=lambda values: values["any"]
                ),
            ),
            required=True,
        ),
        "ports": Field(shape=PORT_LIST),
        "from": Field(shape=SELECTOR, to="source"),
    },
    make=lambda values: _allow(**values),
)


def _allow(to: str | AnyService, **others: Any) -> Allow:
    return Allow(any=to, **others) if isinstance(to, AnyService) else Allow(to=to, **others)


AVOID = Fields(
    fields={
        "domains": Field(shape=ListOf(item=scalars.NAME, most=16)),
        "labels": Field(shape=Labels()),
        "nodes": Field(shape=ListOf(item=scalars.NAME, most=16)),
    },
    make=lambda values: Avoid(**values),
)

INCLUDE = Fields(
    fields={"nodes": Field(shape=ListOf(item=scalars.NAME, most=16), required=True)},
    make=lambda values: values["nodes"],
)

REQUIRE = Fields(
    fields={
        "latency_ms": Field(shape=_maximum(scalars.LATENCY_MAX_MS), to="latency_us_max"),
        "bandwidth_mbps": Field(shape=_minimum(scalars.RATE_MBIT), to="bandwidth_bps_min"),
        "loss_percent": Field(shape=_maximum(scalars.LOSS_MAX_PERCENT), to="loss_ppm_max"),
        "encryption": Field(shape=scalars.INTENT_ENCRYPTION),
        "disjoint": Field(shape=scalars.DISJOINT),
        "trust": Field(shape=_minimum(scalars.TRUST), to="trust_min"),
        "avoid": Field(shape=AVOID),
        "include": Field(shape=INCLUDE, to="include_nodes"),
    },
    make=lambda values: Require(**values),
)

PREFER = Fields(
    fields={"cost": Field(shape=scalars.LEVEL), "latency": Field(shape=scalars.LEVEL)},
    make=lambda values: Prefer(**values),
)

_EXPECTED_FLOW = Fields(
    fields={
        "from": Field(shape=SELECTOR, to="source", required=True),
        "to": Field(shape=scalars.DESTINATION_NAME, required=True),
        "ports": Field(shape=PORT_LIST),
    }
)


def _test(values: dict[str, Any]) -> IntentTest:
    if len(values) != 1:
        raise ValueError("expected one of allow and deny")
    ((verdict, flow),) = values.items()
    return IntentTest(allowed=verdict == "allow", **flow)


TEST = Fields(fields={"allow": Field(shape=_EXPECTED_FLOW), "deny": Field(shape=_EXPECTED_FLOW)}, make=_test)


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
    if values.get("suspends") and isolate is None:
        raise ValueError("suspends is about what is isolated: expected isolate")
    if values.get("suspends") and values.get("allow"):
        raise ValueError(
            "an intent that suspends others drops whatever its hosts send: expected no allow beside suspends"
        )
    if sum(allow.any is not None for allow in values.get("allow", ())) > ANY_MAX:
        raise ValueError(f"more than {ANY_MAX} allows describe a service: name some, or write several intents")
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
        "via": Field(shape=ListOf(item=scalars.VIA_NAME, most=16)),
        "require": Field(shape=REQUIRE),
        "prefer": Field(shape=PREFER),
        "on_violation": Field(shape=scalars.one_of("degrade", "stop")),
        "on_service_down": Field(shape=scalars.one_of("stop", "bypass")),
        "priority": Field(shape=scalars.integer(1, 1000)),
        "class": Field(shape=scalars.NAME, to="service_class"),
        "overrides": Field(shape=ListOf(item=scalars.NAME, most=64)),
        "suspends": Field(shape=ListOf(item=scalars.NAME, most=64)),
        "remediation": Field(shape=scalars.REMEDIATION),
        "lease": Field(shape=LEASE),
        "tests": Field(shape=ListOf(item=TEST, most=256)),
    },
    make=_intent,
)


def _print_selector(selector: Selector) -> dict[str, Any]:
    spec: dict[str, Any] = {"network": selector.network}
    if selector.labels:
        spec["select"] = dict(selector.labels)
    if selector.prefixes:
        spec["prefixes"] = list(selector.prefixes)
    return spec


def _print_any(asked: AnyService) -> dict[str, Any]:
    spec: dict[str, Any] = {"service": asked.service} if asked.service else {}
    if asked.labels:
        spec["labels"] = dict(asked.labels)
    if asked.capabilities:
        spec["capabilities"] = list(asked.capabilities)
    if asked.trust_min is not None:
        spec["trust"] = {"min": asked.trust_min.name.lower()}
    return spec


def _print_ports(ports: tuple[Ports, ...]) -> dict[str, Any]:
    return {"ports": [scalars.print_ports(port) for port in ports]} if ports else {}


def print_require(require: Require) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    if require.latency_us_max is not None:
        spec["latency_ms"] = {"max": scalars.unscaled(require.latency_us_max, 1000)}
    if require.bandwidth_bps_min is not None:
        spec["bandwidth_mbps"] = {"min": scalars.unscaled(require.bandwidth_bps_min, 1_000_000)}
    if require.loss_ppm_max is not None:
        spec["loss_percent"] = {"max": scalars.unscaled(require.loss_ppm_max, 10_000)}
    if require.encryption != Encryption.NONE:
        spec["encryption"] = str(require.encryption)
    if require.disjoint is not None:
        spec["disjoint"] = str(require.disjoint)
    if require.trust_min is not None:
        spec["trust"] = {"min": require.trust_min.name.lower()}
    if require.avoid != Avoid():
        domains, labels, nodes = require.avoid.domains, require.avoid.labels, require.avoid.nodes
        spec["avoid"] = ({"domains": list(domains)} if domains else {}) | ({"labels": dict(labels)} if labels else {})
        spec["avoid"] |= {"nodes": list(nodes)} if nodes else {}
    if require.include_nodes:
        spec["include"] = {"nodes": list(require.include_nodes)}
    return spec


def print_prefer(prefer: Prefer) -> dict[str, str]:
    return {name: str(level) for name in ("cost", "latency") if (level := getattr(prefer, name)) is not None}


def _print_test(test: IntentTest) -> dict[str, Any]:
    flow = {"from": _print_selector(test.source), "to": test.to} | _print_ports(test.ports)
    return {"allow" if test.allowed else "deny": flow}


def print_intent(intent: Intent) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    if intent.isolate is not None:
        spec["isolate"] = _print_selector(intent.isolate)
    if intent.allow:
        spec["allow"] = [
            {"to": {"any": _print_any(allow.any)} if allow.any is not None else allow.to}
            | _print_ports(allow.ports)
            | ({"from": _print_selector(allow.source)} if allow.source is not None else {})
            for allow in intent.allow
        ]
    if intent.via:
        spec["via"] = list(intent.via)
    if require := print_require(intent.require):
        spec["require"] = require
    if prefer := print_prefer(intent.prefer):
        spec["prefer"] = prefer
    if intent.on_violation != "degrade":
        spec["on_violation"] = intent.on_violation
    if intent.on_service_down != "stop":
        spec["on_service_down"] = intent.on_service_down
    if intent.priority != 100:
        spec["priority"] = intent.priority
    if intent.service_class:
        spec["class"] = intent.service_class
    if intent.overrides:
        spec["overrides"] = list(intent.overrides)
    if intent.suspends:
        spec["suspends"] = list(intent.suspends)
    if intent.remediation != Remediation.PROPOSE:
        spec["remediation"] = str(intent.remediation)
    if intent.lease_s is not None:
        spec["lease"] = {"for": scalars.print_duration(intent.lease_s)}
    elif intent.lease_until_s is not None:
        spec["lease"] = {"until": scalars.print_time(intent.lease_until_s)}
    if intent.tests:
        spec["tests"] = [_print_test(test) for test in intent.tests]
    return spec
