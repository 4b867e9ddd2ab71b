"""Manifests: what is read, what is refused and with which words, at which place."""

import time

import jsonschema_rs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.language.manifest import (
    KINDS,
    ManifestInvalid,
    applied,
    locate,
    parse,
    print_yaml,
    read,
    schema,
    to_manifest,
)
from controller.language.policy import parse_policy
from controller.language.scalars import print_duration
from controller.model.intent import Allow, Deny, Encryption, Intent, Ports, Require, Selector, Trust
from controller.model.inventory import Link, LinkEnd, Network
from controller.model.policy import AcceptRule, Policy
from tests.intent_strategies import INTENTS
from tests.simulator import ORDER_PROCESSING, World

LINES = ORDER_PROCESSING.splitlines()


def faults(text: str | bytes) -> list[str]:
    with pytest.raises(ManifestInvalid) as caught:
        parse(text, "x.yaml")
    return str(caught.value).splitlines()


def test_reference_intent_is_read() -> None:
    (document,) = parse(ORDER_PROCESSING)
    assert document.value == Intent(
        name="order-processing",
        tenant="customer-x",
        isolate=Selector(network="shop/customer-x", labels=(("app", "order-processing"),)),
        allow=(
            Allow(
                to="insight/analytics/analytics-y",
                ports=(Ports(protocol="tcp", first=443, last=443), Ports(protocol="icmp")),
            ),
        ),
        require=Require(latency_us_max=20_000, encryption=Encryption.WIREGUARD, trust_min=Trust.PARTNER),
        lease_s=30 * 86400,
    )


@pytest.mark.parametrize(
    ("change", "to", "message"),
    [
        ("isolate:", "isolat:", "spec.isolat: unknown field 'isolat'; did you mean 'isolate'?"),
        ("max: 20", "max: -20", "-20 is out of range"),
        ("max: 20", "max: 20ms", "found '20ms'"),
        ("max: 20", "max: true", "found true"),
        ("max: 20", "max: 1e-9", "1e-09 is finer than 1/1000 milliseconds; expected a number of milliseconds (a plain"),
        ("kind: Intent", "kin: Intent", "field 'kind' is missing; one of Domain, Network"),
        (
            "app: order-processing}",
            '"a\\u202eb": c}',
            ".select.'a\\u202eb': 'a\\u202eb' is no label's name",
        ),
        ("max: 20", "maximum: 20", "unknown field 'maximum'"),
        ("tcp/443", "tcp/99999", "no range inside 1 to 65535"),
        ("tcp/443", "sctp/443", "are no ports; expected ports such as tcp/443"),
        ("tcp/443", "udp/2000-1000", "'udp/2000-1000' ends before it begins; expected ports"),
        ("30d", "30 days", "no duration; expected a duration such as 30d"),
        ("for: 30d", "for: 30d, until: 2030-01-01T00:00:00Z", "expected one of for"),
        ("for: 30d", "until: 2030-01-01", "no time zone"),
        ("min: partner", "min: friend", "expected one of public, partner, own"),
        ("wireguard", "rot13", "expected one of none, wireguard, wireguard-pq, wireguard-end-to-end"),
        ("kind: Intent", "kind: Intend", "unknown kind 'Intend'; did you mean 'Intent'?"),
        ("netstitch/v1", "netstitch/v2", "expected netstitch/v1, found 'netstitch/v2'"),
        ("shop/customer-x,", "customer-x,", "expected a network's name such as shop/customer-x"),
        ("tenant: customer-x", "tennant: customer-x", "did you mean 'tenant'"),
        ("allow:", "via: [a/b]\n  allow:", "no such name; expected a service's name such as firewall"),
        ("allow:", "prefer: {cost: high}\n  allow:", "'high' is none of them; expected one of low"),
        ("allow:", "overrides: [A]\n  allow:", "'A' is no such name"),
        ("allow:", "tests: [{deny: {to: a/b}}]\n  allow:", "field 'from' is missing"),
        ("allow:", "tests: [{}]\n  allow:", "expected one of allow and deny"),
        ("allow:", "tests: [{deny: {from: a/b c, to: a/b}}]\n  allow:", "'c' has no prefix length"),
        ("max: 20}", "max: 20}, bandwidth_mbps: {min: 0}", "0 is out of range"),
        ("max: 20}", "max: 20}, loss_percent: {max: 0.00001}", "finer than 1/10000 percent"),
        ("max: 20}", "max: 20}, loss_percent: {max: 1e400}", "found '1e400'"),
        ("max: 20}", "max: 20}, loss_percent: {max: .nan}", "found '.nan'"),
        ("max: 20}", "max: 20}, disjoint: rack", "expected one of link, node, srlg"),
        ("max: 20}", "max: 20}, avoid: {lables: {}}", "did you mean 'labels'?"),
        ("order-processing}}", '"a\\u202eb"}}', "characters that do not print"),
        ("app: order-processing}", "'a b': c}", "is no label's name"),
        ("lease:", "priority: 3\n  priority: 4\n  lease:", "field 'priority' is given twice"),
    ],
)
def test_wrong_manifest_says_where_and_what(change: str, to: str, message: str) -> None:
    text = ORDER_PROCESSING.replace(change, to, 1)
    assert text != ORDER_PROCESSING
    told = faults(text)
    assert any(message in fault for fault in told), told
    line = next(number for number, line in enumerate(text.splitlines(), 1) if to.splitlines()[-1] in line)
    assert any(fault.startswith((f"x.yaml:{line}:", f"x.yaml:{line - 1}:")) for fault in told), told


def test_column_is_that_of_the_wrong_value() -> None:
    line = next(number for number, line in enumerate(LINES, 1) if "max: 20" in line)
    column = LINES[line - 1].index("20}") + 1
    assert faults(ORDER_PROCESSING.replace("max: 20", "max: x2"))[0].startswith(f"x.yaml:{line}:{column}: ")


def test_all_faults_are_told_at_once() -> None:
    text = ORDER_PROCESSING.replace("max: 20", "max: -1").replace("tcp/443", "tcp/0").replace("30d", "0d")
    assert len(faults(text)) == 3


def test_a_document_of_one_intent_has_at_most_64_kib_with_its_comments() -> None:
    padding = "# what we meant\n" * 5000
    for text in (padding + ORDER_PROCESSING, ORDER_PROCESSING + padding):
        (fault,) = faults(text)
        assert "one intent of 8" in fault and "at most 65,536 are read" in fault
    other = ORDER_PROCESSING.replace("name: order-processing", "name: other")
    assert len(parse(ORDER_PROCESSING + padding[:40000] + "---\n" + padding[:40000] + other)) == 2


def test_duplicate_name_in_a_file_is_refused() -> None:
    (fault,) = faults(ORDER_PROCESSING + "---\n" + ORDER_PROCESSING)
    assert "Intent 'order-processing' is in line" in fault


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"x" * 17_000_000, "17,000,000 bytes are too many"),
        (b"\xff\xfe" * 9_000_000, "are too many"),
        ("[" * 500_000, "nested more than"),
        ("{a: " * 100_000, "nested more than"),
        (b"\xff\xfe", "byte 0xff is no UTF-8"),
        ("a\x00b", "a character that YAML does not allow"),
        ("", "no manifest"),
        ("# nothing\n---\n", "no manifest"),
        ("a: [1, 2", "not well-formed"),
        ("--- 1\n" * 1_000_000, "more than 1,000,000 values"),
        ("a: *b", "alias *b has no anchor"),
        ("a: !!python/object/apply:os.system [id]", "tag"),
        ("? [a]\n: 1", "a field's name must be plain text"),
        ("just text", "expected a manifest"),
        ("{'kind': 3}", "unknown kind 3"),
        ('{"apiVersion": "netstitch/v1", "kind": "Node"', "not well-formed"),
        (
            "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)),
            "more than 1,000,000 values",
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_garbage_is_refused_quickly(text: str | bytes, message: str) -> None:
    began = time.process_time()
    assert message in faults(text)[0]
    assert time.process_time() - began < 60


def test_of_many_faults_the_first_are_told() -> None:
    told = faults("--- 1\n" * 5000)
    assert len(told) == 101 and told[-1] == "x.yaml:101:5: 100 faults; from here on nothing was checked"


@given(st.binary(max_size=300) | st.text(max_size=300))
@settings(max_examples=300, deadline=None)
def test_no_text_raises_anything_but_its_faults(text: str | bytes) -> None:
    try:
        parse(text, "x")
    except ManifestInvalid as error:
        assert all(fault.line >= 1 and fault.column >= 1 for fault in error.faults)


def test_json_is_read_like_yaml_with_places() -> None:
    (document,) = parse(ORDER_PROCESSING)
    text = msgspec.json.format(msgspec.json.encode([document.data]), indent=2)
    assert parse(text)[0].value == document.value
    wrong = text.decode().replace('"max": 20', '"max": "20"')
    line = next(number for number, line in enumerate(wrong.splitlines(), 1) if '"max"' in line)
    assert faults(wrong)[0].startswith(f"x.yaml:{line}:")


def test_whole_inventories_are_read_and_printed_back() -> None:
    for text in World().inventories.values():
        documents = parse(text)
        printed = print_yaml([to_manifest(document.value) for document in documents])
        assert [document.value for document in parse(printed)] == [document.value for document in documents]


@given(INTENTS)
@settings(max_examples=150, deadline=None)
def test_what_is_printed_is_read_back_equal(intent: Intent) -> None:
    manifest = to_manifest(intent)
    assert parse(print_yaml([manifest]))[0].value == intent
    assert read([manifest]) == ((applied(parse(print_yaml([manifest]))[0]),), ())
    jsonschema_rs.validate(schema("Intent"), manifest)


@given(st.integers(1, 3650 * 86400))
def test_durations_print_back(seconds: int) -> None:
    assert print_duration(seconds)[:-1].isdigit()


def test_read_gives_paths_that_start_with_the_index() -> None:
    (document,) = parse(ORDER_PROCESSING)
    wrong = msgspec.json.decode(msgspec.json.encode(document.data))
    wrong["spec"]["allow"][0]["to"] = "nowhere"
    values, problems = read([document.data, wrong])
    assert values == ()
    assert [problem.path for problem in problems] == [(1, "spec", "allow", 0, "to")]
    line, column = locate(document, problems[0].path[1:])
    assert LINES[line - 1][column - 1 :].startswith("insight/analytics/analytics-y")
    assert locate(document, ("spec", "nothing", 3)) == locate(document, ("spec",))


@pytest.mark.parametrize("data", [None, 3, "x", [], {}, {"kind": "Intent"}, {"kind": ["Intent"]}, {1: 2}])
def test_read_takes_any_json(data: object) -> None:
    values, problems = read([data])
    assert values == () and problems


def test_what_get_prints_can_be_applied() -> None:
    (document,) = parse(ORDER_PROCESSING)
    assert parse(print_yaml([{**document.data, "status": {"phase": "Active"}}]))[0].value == document.value


@pytest.mark.parametrize("kind", KINDS)
def test_schema_of_each_kind_is_valid(kind: str) -> None:
    assert jsonschema_rs.meta.is_valid(schema(kind))
    assert not jsonschema_rs.is_valid(schema(kind), {"kind": kind})


def test_schemas_accept_the_labs_manifests() -> None:
    for text in World().inventories.values():
        for document in parse(text):
            jsonschema_rs.validate(schema(document.kind), document.data)


LINK = (
    "apiVersion: netstitch/v1\nkind: Link\nmetadata: {name: l}\nspec: {a: {node: x, port: 1}, b: {node: y, port: 2}, "
)


def test_link_units_are_kept_exactly() -> None:
    text = LINK + "delay_ms: 2.5, rate_mbit: 0.5, loss_percent: 0.1, mtu: 2000, trust: partner, srlg: [r1], cost: 7}"
    assert parse(text)[0].value == Link(
        name="l",
        a=LinkEnd(node="x", port=1),
        b=LinkEnd(node="y", port=2),
        delay_us=2500,
        rate_bps=500_000,
        loss_percent=0.1,
        mtu=2000,
        trust=Trust.PARTNER,
        srlg=("r1",),
        cost=7,
    )
    assert to_manifest(parse(text)[0].value)["spec"]["cost"] == 7
    usual = parse(text.replace("cost: 7", "cost: 10"))[0].value
    assert parse(text.replace(", cost: 7", ""))[0].value == usual
    assert "cost" not in to_manifest(usual)["spec"]
    assert "16777216 is out of range" in faults(text.replace("cost: 7", "cost: 16777216"))[0]
    assert "finer than 1/1000" in faults(text.replace("2.5", "0.0001"))[0]
    assert "is out of range" in faults(text.replace("2000", "1000"))[0]
    assert "expected b" in faults(text.replace("mtu", "domain: z, mtu"))[0]


def test_network_must_hold_its_addresses() -> None:
    text = (
        "apiVersion: netstitch/v1\nkind: Network\nmetadata: {name: a/b}\nspec: {prefixes: [10.0.0.0/24], "
        "attachments: [{name: h, node: n, port: 1, addresses: [10.0.0.5]}, "
        "{name: i, node: n, port: 2, addresses: [10.0.0.6]}]}"
    )
    assert parse(text)[0].name == "a/b"
    assert "no prefix (10.0.0.1/24 has host bits set)" in faults(text.replace("10.0.0.0/24", "10.0.0.1/24"))[0]
    assert "in none of the network's prefixes" in faults(text.replace("10.0.0.6", "10.0.1.6"))[0]
    assert "belongs to both h and i" in faults(text.replace("10.0.0.6", "10.0.0.5"))[0]
    assert "two attachments are called 'h'" in faults(text.replace("name: i", "name: h"))[0]


def test_a_network_says_what_it_can_do() -> None:
    text = "apiVersion: netstitch/v1\nkind: Network\nmetadata: {name: a/b}\nspec: "
    text += "{prefixes: [10.0.0.0/24], capabilities: [region=eu, pci-zone, dns]}"
    network = parse(text)[0].value
    assert isinstance(network, Network)
    assert network.capabilities == ("dns", "pci-zone", "region=eu")
    assert to_manifest(network)["spec"]["capabilities"] == ["dns", "pci-zone", "region=eu"]
    assert parse(text.replace("region=eu", "region=us, region=eu"))[0].name == "a/b", "it may be in two"
    assert "capability dns is there twice" in faults(text.replace("pci-zone", "dns"))[0]
    for wrong in ("region=", "=eu", "a=b=c", "DNS", "a b", "''", "7", "region: eu", "x" * 64, "d\u0117s"):
        assert "expected a capability such as dns or region=eu" in faults(text.replace("pci-zone", wrong))[0], wrong
    many = ", ".join(f"c{number}" for number in range(65))
    assert "expected 0 to 64 items, found 65" in faults(text.replace("region=eu, pci-zone, dns", many))[0]


def test_a_network_says_what_becomes_of_denied_packets() -> None:
    text = "apiVersion: netstitch/v1\nkind: Network\nmetadata: {name: a/b}\nspec: "
    text += "{prefixes: [10.0.0.0/24], deny: reject}"
    network = parse(text)[0].value
    assert isinstance(network, Network)
    assert network.deny is Deny.REJECT
    assert to_manifest(network)["spec"]["deny"] == "reject"
    usual = parse(text.replace("reject", "drop"))[0].value
    assert usual == parse(text.replace(", deny: reject", ""))[0].value
    assert "deny" not in to_manifest(usual)["spec"]
    assert "expected drop or reject" in faults(text.replace("reject", "Reject"))[0]


def test_policy_is_read_with_places() -> None:
    text = "accept:\n  - {from: shop, source: 'shop/*', to: 'insight/*', ports: [tcp/443], encryption: wireguard}\n"
    assert parse_policy(text, "p") == Policy(
        accept=(
            AcceptRule(
                origin="shop",
                source="shop/*",
                destination="insight/*",
                ports=(Ports(protocol="tcp", first=443, last=443),),
                encryption=Encryption.WIREGUARD,
            ),
        )
    )
    assert parse_policy("", "p") == Policy()
    with pytest.raises(
        ManifestInvalid, match=r"p:2:18: accept\[0\].sorce: unknown field 'sorce'; did you mean 'source'"
    ):
        parse_policy(text.replace("source", "sorce"), "p")


def test_what_is_wrong_with_an_alias_in_a_policy_is_said_where_it_stands() -> None:
    with pytest.raises(ManifestInvalid, match=r"p.yaml:2:10: transit\[0\]: field 'to' is missing"):
        parse_policy("accept: &a [{from: shop}]\ntransit: *a\n", "p.yaml")


def test_long_texts_are_printed_as_they_are() -> None:
    rule = {"when": "true", "then": {"dscp": "EF"}, "explain": "because    of    it    " * 20 + "."}
    text = print_yaml([{"apiVersion": "netstitch/v1", "kind": "Rule", "metadata": {"name": "r"}, "spec": rule}])
    assert parse(text)[0].data["spec"] == rule
