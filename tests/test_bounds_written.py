"""Every field of manifests, policies and plugins' answers, at and beyond its bounds: read, or refused with a reason."""

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from controller.cli.front_ends import Row, documents
from controller.language import manifest
from controller.language.fault import Fault, ManifestInvalid
from controller.language.manifest import API_VERSION, KINDS
from controller.language.policy import POLICY, parse_policy
from controller.language.rule import THEN
from controller.language.shape import FLAWS_MAX, Fields, Scalar, Shape
from controller.plugins import process
from controller.plugins.hooks import REASON_LENGTH, _read_judgement, _read_then
from controller.plugins.process import PluginFailed
from tests.beyond_written import FULL_WIDTH, HUGE, WRONG, Path, at, beyond, changed, places, showing, within, without
from tests.simulator import World

KEY = base64.b64encode(bytes(32)).decode()
WHO = {"network": "shop/customer-x", "select": {"app": "web"}, "prefixes": ["10.1.0.0/28"]}
FLOW = {"from": WHO, "to": "insight/analytics", "ports": ["tcp/443"]}
REQUIRE = {
    "latency_ms": {"max": 20}, "bandwidth_mbps": {"min": 10}, "loss_percent": {"max": 1}, "encryption": "wireguard",
    "disjoint": "node", "trust": {"min": "partner"}, "include": {"nodes": ["n2"]},
    "avoid": {"domains": ["a"], "labels": {"pci": "true"}, "nodes": ["n1"]},
}  # fmt: skip
PREFER = {"cost": "low", "latency": "low"}
DO = {"require": REQUIRE, "prefer": PREFER, "via": ["firewall"], "forbid": ["traffic"], "class": "gold", "dscp": "EF"}
INTENT = {
    "allow": [FLOW], "via": ["firewall"], "require": REQUIRE, "prefer": PREFER, "on_violation": "stop", "priority": 7,
    "on_service_down": "bypass",
    "class": "gold", "overrides": ["other"], "remediation": "auto", "lease": {"for": "1h"}, "tests": [{"allow": FLOW}],
}  # fmt: skip
LINK = {
    "a": {"node": "n1", "port": 1}, "b": {"node": "n2", "port": 2}, "delay_ms": 1.5, "rate_mbit": 10,
    "loss_percent": 0.5, "mtu": 1500, "trust": "own", "srlg": ["duct"], "cost": 5,
}  # fmt: skip
NETWORK = {
    "prefixes": ["10.1.0.0/24", "2001:db8:1::/64"], "gateways": ["10.1.0.1"], "trust": "own", "deny": "reject",
    "replies": "stateless", "tenants": ["customer-x"], "capabilities": ["dns", "region=eu"],
    "attachments": [
        {"name": "cx1", "node": "se1", "port": 1, "addresses": ["10.1.0.11"], "labels": {"app": "web"}}
    ],
}  # fmt: skip


def domain() -> dict[str, Any]:
    keys = World().controllers["transit"].keys
    return {
        "key": keys.public, "certificate": keys.certificate, "endpoint": "127.0.0.1:7001", "sid_block": "5f00:2::/32",
        "trust": "partner", "reach": [{"domain": "insight", "latency_ms": 5, "trust": "own", "cost": 3}],
    }  # fmt: skip


def written(kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}


LINK_OUT = {name: value for name, value in LINK.items() if name != "b"}
LINK_OUT |= {"a": {"node": "n1", "border": "b1"}, "domain": "transit"}
SERVICE = {"addresses": ["10.1.0.11"], "ports": ["tcp/80"], "tenants": ["*"], "in": "cx1", "out": "cx2"}
LABELS = {"labels": {"app": "web"}}
DESCRIBED = {"service": "dns", "labels": {"region": "eu"}, "capabilities": ["gpu"], "trust": {"min": "partner"}}
SAMPLES: dict[str, list[dict[str, Any]]] = {
    "Intent": [
        written("Intent", "order", INTENT, tenant="customer-x", **LABELS),
        written(
            "Intent",
            "order",
            {"isolate": WHO, "suspends": ["other"], "lease": {"until": "2030-01-31T12:00:00Z"}},
            tenant="customer-x",
        ),
        written("Intent", "order", {"isolate": "shop/customer-x", "tests": [{"deny": FLOW}]}, tenant="customer-x"),
        written("Intent", "order", INTENT | {"allow": [FLOW | {"from": "shop/a app=b"}]}, tenant="customer-x"),
        written(
            "Intent", "order", INTENT | {"allow": [{"to": {"any": DESCRIBED}, "from": "shop/a"}]}, tenant="customer-x"
        ),
    ],
    "Rule": [
        written("Rule", "r", {"when": '"pci=true" in source.labels', "then": DO, "priority": 7, "explain": "it is so"})
    ],
    "Network": [written("Network", "shop/customer-x", NETWORK, **LABELS)],
    "Service": [written("Service", "shop/customer-x/web", SERVICE, **LABELS)],
    "Node": [
        written("Node", "se1", {"role": "edge", "locator": "5f00:1:1::/48", "agent": "unix:/run/a.sock"}, **LABELS)
    ],
    "Link": [written("Link", "l", LINK, **LABELS), written("Link", "l", LINK_OUT)],
    "Domain": [
        written("Domain", "transit", domain(), **LABELS),
        written("Domain", "shop", {"self": True, "sid_block": "5f00:1::/32", "translation_pool": ["100.65.0.0/16"]}),
    ],
}
NEVER: dict[str, list[Any]] = {"Link": [written("Link", "l", LINK | {"b": {"node": "n1", "border": "b1"}})]}
"""What is refused whatever stands there, in places that the form has all the same."""
SOURCES = {"prefixes": [{"prefix": "10.0.0.0/8", "ge": 16, "le": 24}], "max_prefixes": 10, "max_flows": 5}
POLICIES = [
    {
        "accept": [
            {
                "from": "shop", "source": "shop/*", "to": "insight/analytics/*", "ports": ["tcp/443"],
                "encryption": "wireguard", "direct": True, "dscp": ["EF"], **SOURCES,
            }
        ],
        "transit": [
            {"from": "shop", "to": "*", "encryption": "none", "max_lease_s": 3600, "dscp": ["AF41"], **SOURCES}
        ],
        "advertise": [{"to": "shop", "what": "insight/*", "onward": True}],
        "learn": [{"from": "*", "what": "shop/*", "prefixes": SOURCES["prefixes"]}],
        "remediation": "auto",
        "neighbour": {"max_agreements": 5, "max_share": 10},
        "offer": {"lease_s": 3600}, "tunnels": {"renew_keys_s": 3600},
    }
]  # fmt: skip


def _document(kind: str) -> Fields:
    return manifest._DOCUMENTS[manifest.model_of(kind)]


def read_objects(data: Any) -> None:
    """As they come over the API, once JSON is decoded."""
    applied, problems = manifest.read([data])
    if problems:
        assert all(problem.message and problem.path[:1] == (0,) for problem in problems)
        raise ManifestInvalid(tuple(Fault(file="", line=1, column=1, message=problem.message) for problem in problems))
    assert applied


def read_json(data: Any) -> None:
    """As they come in a file, which may be JSON."""
    manifest.parse(json.dumps(data))


def read_policy(data: Any) -> None:
    """An empty file is a policy: nothing is accepted."""
    if data is None:
        parse_policy("[]", "policy.yaml")
    parse_policy(json.dumps(data), "policy.yaml")


def read_then(data: Any) -> None:
    """None is an answer: nothing is required."""
    if data is None:
        raise PluginFailed("nothing")
    _read_then(data, "a plugin")


Read = Callable[[Any], object]
TOGETHER = ("ge", "le")
"""What has to fit to what stands beside it."""
FORMS: dict[str, tuple[Shape, list[Any], list[Read], type[Exception]]] = {
    **{kind: (_document(kind), SAMPLES[kind], [read_objects, read_json], ManifestInvalid) for kind in KINDS},
    "policy": (POLICY, POLICIES, [read_policy], ManifestInvalid),
    "answer of a compiler": (THEN, [DO], [read_then], PluginFailed),
}


def cases(name: str) -> Iterator[tuple[Path, Any]]:
    """With something that may not stand where it says."""
    shape, samples, _, _ = FORMS[name]
    for path, place in places(shape):
        sample = showing([*samples, *NEVER.get(name, ())], path)
        present = at(sample, path)
        for value in beyond(place, present):
            yield path, changed(sample, path, value)


@pytest.mark.parametrize("name", FORMS)
def test_samples_are_read_and_have_every_place(name: str) -> None:
    _, samples, readers, refusal = FORMS[name]
    for sample in samples:
        for read in readers:
            read(sample)
    for never in NEVER.get(name, ()):
        for read in readers:
            with pytest.raises(refusal):
                read(never)


@pytest.mark.parametrize("name", FORMS)
def test_what_is_beyond_is_refused_with_a_reason(name: str) -> None:
    shape, _, readers, refusal = FORMS[name]
    visited: Counter[Path] = Counter()
    wrong = []
    for path, data in cases(name):
        visited[path] += 1
        for read in readers:
            try:
                read(data)
            except refusal as error:
                wrong += [] if str(error) else [f"{read.__name__} {path}: no reason"]
            except Exception as error:
                wrong.append(f"{read.__name__} {path}: {type(error).__name__}: {error!s:.200}: {at(data, path)!r:.80}")
            else:
                wrong.append(f"{read.__name__} {path} was read: {at(data, path)!r:.80}")
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:50])
    assert {path for path, _ in places(shape)} == visited.keys() and min(visited.values()) > 10


@pytest.mark.parametrize("name", FORMS)
def test_what_is_at_the_bounds_is_read_and_what_has_to_be_there_is_missed(name: str) -> None:
    shape, samples, readers, refusal = FORMS[name]
    for path, place in places(shape):
        if isinstance(place, Scalar) and path[-1] not in TOGETHER:
            try:
                sample = showing(samples, path)
            except AssertionError:
                assert name in NEVER
                continue
            for value in within(place, at(sample, path)):
                for read in readers:
                    read(changed(sample, path, value))
        for field in place.fields if isinstance(place, Fields) else ():
            if place.fields[field].required:
                lacking = without(showing([*samples, *NEVER.get(name, ())], (*path, field)), (*path, field))
                for read in readers:
                    with pytest.raises(refusal):
                        read(lacking)


def test_after_a_hundred_flaws_no_more_is_looked_at() -> None:
    """Each is words with the nearest name: 200,000 of them took seconds."""
    sample = SAMPLES["Network"][0]
    unknown = {f"atachment{number}": 1 for number in range(200_000)}
    for data in (
        changed(sample, ("spec",), sample["spec"] | unknown),
        changed(sample, ("spec", "attachments"), [unknown] * 10),
        changed(sample, ("spec", "prefixes"), [1] * 64),
        changed(sample, ("metadata", "labels"), unknown),
    ):
        _, problems = manifest.read([data])
        assert 1 <= len(problems) <= FLAWS_MAX, len(problems)


def test_the_root_certificate_of_a_domain_is_alone() -> None:
    """TLS would believe the second one too."""
    sample = SAMPLES["Domain"][0]
    other = World().controllers["insight"].keys.certificate
    own = sample["spec"]["certificate"]
    for text in (own + other, other + own, own + own, f"insight\n{own}", own + "\x00", own.replace("\n", "\n\n") + "x"):
        _, problems = manifest.read([changed(sample, ("spec", "certificate"), text)])
        assert problems and problems[0].path == (0, "spec", "certificate"), text
    for text in (own.replace("\n", "\r\n"), f"\n{own}\n"):
        assert not manifest.read([changed(sample, ("spec", "certificate"), text)])[1]


@pytest.mark.parametrize("answer", [*WRONG, 1, ["a"], {"a": "b"}, " ", "a\rb"])
def test_a_strategy_gives_a_reason_in_words_or_none(answer: object) -> None:
    """Cut, since another domain reads it."""
    if answer is None or answer == FULL_WIDTH or (isinstance(answer, str) and answer.startswith("aa")):
        assert len(_read_judgement(answer, "p")) <= REASON_LENGTH
        return
    with pytest.raises(PluginFailed, match="nonsense"):
        _read_judgement(answer, "p")


LINES = (
    b"", b"\n", b"\x00", b"\xff", b"[" * 100_000, b'{"answer":' * 100_000, b"5", b"[]", b'"a"', b'{"answer":1', b"null",
    b'{"error": 5}', b'{"lacking": 5}', b'{"lacking": [5]}', b'{"answer": "\\ud800"}',
    b'{"answer": ' + b"1" * 5000 + b"}",
)  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_a_plugin_s_process_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        process.read(line)


def test_what_a_front_end_gives_is_read_or_refused_at_its_line() -> None:
    """As `FORMS`, but that the plugin says where each manifest stands."""
    network = SAMPLES["Network"][0]
    for value in (*WRONG, {"line": 1}, {"line": 0, "manifest": {}}, {"line": HUGE, "manifest": {}}):
        for answer in (value, [value], [{"line": value, "manifest": network}], [{"line": 7, "manifest": value}]):
            if answer in ([], [{"line": True, "manifest": network}]) or value != value or value == "\ud800":
                continue
            with pytest.raises((msgspec.ValidationError, ManifestInvalid)):
                documents(msgspec.convert(answer, type=list[Row]), "orders.csv", lambda _: "customer-x")
    for value in WRONG:
        if value == "\ud800":  # no plugin's JSON can say that
            continue
        with pytest.raises(ManifestInvalid, match=r"orders\.csv:7:1"):
            rows = [Row(7, changed(network, ("spec", "prefixes"), value))]
            documents(rows, "orders.csv", lambda _: "customer-x")
