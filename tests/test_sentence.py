"""Sentences: they say what manifests say, print back, and point at the word that is wrong."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.language.fault import ManifestInvalid
from controller.language.manifest import parse, print_yaml, to_manifest
from controller.language.sentence import parse_sentence, print_sentence
from controller.model.intent import Intent
from tests.intent_strategies import INTENTS

MANIFEST = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: order-processing, tenant: customer-x}
spec:
  isolate: {network: shop/customer-x, select: {app: order-processing}}   # an invariant
  allow:
    - {to: insight/analytics/analytics-y, ports: [tcp/443, icmp]}
  via: [firewall]
  require: {latency_ms: {max: 20}, bandwidth_mbps: {min: 50}, loss_percent: {max: 0.1}, encryption: wireguard,
            disjoint: srlg, trust: {min: partner}, avoid: {domains: [], labels: {}}}
  prefer: {cost: low}
  on_violation: degrade
  priority: 100
  lease: {for: 30d}
  tests:
    - {deny: {from: shop/customer-z, to: shop/customer-x}}
    - {allow: {from: shop/customer-x app=order-processing, to: insight/analytics/analytics-y, ports: [tcp/443]}}
"""
SENTENCE = """
isolate shop/customer-x app=order-processing; allow insight/analytics/analytics-y tcp/443 icmp; via firewall;
require latency <= 20ms, bandwidth >= 50Mbps, loss <= 0.1%, encryption wireguard, disjoint srlg, trust >= partner;
prefer cost low; on violation degrade; priority 100; for 30d;
test deny shop/customer-z to shop/customer-x; test allow shop/customer-x app=order-processing to insight/analytics/analytics-y tcp/443
"""  # noqa: E501


def read(sentence: str) -> Intent:
    value = parse_sentence(sentence, name="order-processing", tenant="customer-x").value
    assert isinstance(value, Intent)
    return value


def fault(sentence: str) -> str:
    with pytest.raises(ManifestInvalid) as caught:
        read(sentence)
    return str(caught.value)


def test_reference_sentence_is_the_reference_manifest_and_prints_back() -> None:
    intent = read(SENTENCE)
    assert intent == parse(MANIFEST)[0].value
    assert print_sentence(intent) == " ".join(SENTENCE.split())


@given(INTENTS)
@settings(max_examples=300, deadline=None)
def test_sentence_and_manifest_say_the_same(intent: Intent) -> None:
    """A sentence is the spec: name, tenant and labels are metadata, said beside it."""
    sentence = print_sentence(intent)
    document = parse_sentence(sentence, name=intent.name, tenant=intent.tenant)
    said = msgspec.structs.replace(intent, labels=())
    assert document.value == said
    assert print_sentence(document.value) == sentence
    assert parse(print_yaml([document.data]))[0].value == said
    assert parse(print_yaml([to_manifest(intent)]))[0].value == intent


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("latency <= 0.02s", "latency <= 20ms"),
        ("latency<=1500us", "latency <= 1500us"),
        ("latency <= 60s", "latency <= 60s"),
        ("bandwidth >= 0.5Gbps", "bandwidth >= 500Mbps"),
        ("bandwidth >= 1000000Kbps", "bandwidth >= 1Gbps"),
        ("bandwidth >= 10Tbps", "bandwidth >= 10Tbps"),
        ("bandwidth >= 1bps", "bandwidth >= 1bps"),
        ("loss <= 50ppm", "loss <= 0.005%"),
        ("loss <= 100%", "loss <= 100%"),
        ("loss <= 0%", "loss <= 0%"),
    ],
)
def test_units_are_normalised(written: str, canonical: str) -> None:
    assert f"require {canonical};" in print_sentence(read(f"isolate a/b; require {written}"))


def test_clauses_may_stand_in_any_order_and_lines() -> None:
    mixed = "for 720h ;\n priority 100\n; allow x/y/z\nicmp; isolate\ta/b ;"
    assert read(mixed) == read("isolate a/b; allow x/y/z icmp; for 30d")


def test_values_of_labels_are_quoted_where_they_must() -> None:
    intent = read('isolate a/b app="front end; \\"x\\"" tier=web')
    assert intent.isolate is not None
    assert intent.isolate.labels == (("app", 'front end; "x"'), ("tier", "web"))


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("isolat a/b", "sentence:1:1: 'isolat' is not expected here; expected `allow`, `class`"),
        ("isolat a/b", "did you mean 'isolate'?"),
        ("isolate a", "sentence:1:9: 'a' is no such name; expected a network's name such as shop/customer-x"),
        ("isolate a/b;\nrequire latncy <= 3ms", "sentence:2:9: 'latncy' is not expected here"),
        ("isolate a/b;\nrequire latncy <= 3ms", "did you mean 'latency'?"),
        ("isolate a/b; require latency < 20ms", "sentence:1:30: '<' is not expected here; expected `<=`"),
        ("isolate a/b; require latency <= 20MS", "sentence:1:33: '20MS' is none; expected a latency such as 20ms"),
        ("isolate a/b; require latency <= 20MS", "did you mean 20ms?"),
        ("isolate a/b; require latency <= -20ms", "sentence:1:33: '-20ms' is none"),
        ("isolate a/b; require latency <= 1e400ms", "is none"),
        ("isolate a/b; require latency <= nan", "is none"),
        ("isolate a/b; require latency <= 100s", "sentence:1:33: '100s' is out of range; expected 1us to 60s"),
        ("isolate a/b; require latency <= 0.5us", "'0.5us' is finer than 1us"),
        ("isolate a/b; require latency <= 1ms, latency <= 2ms", "sentence:1:49: latency is given twice"),
        ("isolate a/b; require loss <= 101%", "'101%' is out of range; expected 0% to 100%"),
        ("isolate a/b; require trust partner", "sentence:1:28: 'partner' is not expected here; expected `>=`"),
        ("isolate a/b; require trust >= friend", "sentence:1:31: 'friend' is none of them; expected one of public"),
        ("isolate a/b app=x app=y", "sentence:1:19: app is given twice"),
        ("isolate a/b 10.1.0.1/24", "sentence:1:13: '10.1.0.1/24' is no prefix"),
        ('isolate a/b app="x', "sentence:1:16: '=' is not expected here"),
        ("isolate a/b app=a\u202eb", "characters that do not print"),
        ("isolate a/b\u200e", "sentence:1:9: 'a/b\\u200e' is no such name"),
        ("isolate a/b\x00", "sentence:1:9: 'a/b\\x00' is no such name"),
        ("allow a/b/c", "sentence:1:7: who may reach a/b/c? expected `from`"),
        ("isolate a/b; isolate c/d", "sentence:1:22: clause `isolate` is given twice"),
        ("isolate a/b; for 1d; until 2030-01-01T00:00:00Z", "sentence:1:28: how long it holds (for, until)"),
        ("isolate a/b; until 2030-01-01", "sentence:1:20: '2030-01-01' has no time zone"),
        ("isolate a/b; for 30 d", "sentence:1:21: 'd' is not expected here; expected `;` or the end"),
        ("isolate a/b; allow", "sentence:1:19: it ends too early; expected `any` or a network or service"),
        (
            "isolate a/b; allow any service",
            "sentence:1:31: it ends too early; expected `in`, `with` or the last",
        ),
        ("isolate a/b; allow any service with size", "expected `capability` or `trust`"),
        ("isolate a/b; allow any service dns with trust >= own, trust >= own", "trust is given twice"),
        ("isolate a/b" + "; allow any service dns" * 17, "more than 16 allows describe a service"),
        ("allow any service dns", "who may reach dns? expected `from` and a network"),
        ("isolate a/b; allow x/y tcp/99999", "sentence:1:24: 'tcp/99999' is no range"),
        ("isolate a/b; allow x/y tcp/9-3", "sentence:1:24: 'tcp/9-3' ends before it begins"),
        ("isolate a/b; priority 1001", "sentence:1:23: 1001 is out of range"),
        ("isolate a/b; priority high", "sentence:1:23: 'high' is none; expected a whole number"),
        ("isolate a/b; on violation dgrade", "sentence:1:27: 'dgrade' is none of them"),
        ("test deny a/b to c/d", "this intent says nothing"),
        ("", "sentence:1:1: it ends too early"),
        ("isolate a/b; " + "test deny a/b to c/d; " * 5000, "longer than 65,536 bytes"),
    ],
)
def test_wrong_word_is_pointed_at(sentence: str, expected: str) -> None:
    assert expected in fault(sentence)


def test_all_wrong_words_are_told_at_once() -> None:
    assert len(fault("isolate a/b; require latency <= 3, loss <= 4; priority x").splitlines()) == 3


@given(st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_no_text_raises_anything_but_its_faults(text: str) -> None:
    try:
        read(text)
    except ManifestInvalid as error:
        assert all(fault.line >= 1 and fault.column >= 1 for fault in error.faults)
