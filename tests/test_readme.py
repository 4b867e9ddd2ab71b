"""What the README shows of the language is so."""

import re
from pathlib import Path

import pytest
from test_docs_language import names

from controller import config, shell, traffic
from controller.assurance import flow_totals
from controller.cli import trace
from controller.eastwest import client, peer
from controller.export import collector
from controller.fulfillment import acl, containers, numbering, rule_effects, terms
from controller.language import condition, manifest, rule, scalars, tree
from controller.language.english import propose
from controller.language.manifest import parse
from controller.language.sentence import parse_sentence, print_sentence
from controller.model import agreement
from controller.model.intent import Intent
from controller.model.policy import Policy
from controller.model.rule import Rule
from controller.northbound import connections, guard, lists, schema, serve, tokens
from controller.northbound.routes import telemetry
from controller.plugins import cage, process
from controller.reconcile import bundles, incidents
from controller.reconcile.negotiation import withdrawals
from controller.views import doctor, tracing
from dataplane import reasons
from dataplane.p4runtime import p4info

ROOT = Path(__file__).parent.parent
SIZES = {table.name: table.size for table in (*p4info.load().tables, *p4info.load().counters)}
TEXT = (ROOT / "README.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL)


def test_the_manifest_is_the_demos_and_the_sentence_says_the_same() -> None:
    written, rule = blocks("yaml")
    (shown,) = parse(written)
    assert shown.value == parse((ROOT / "topologies/intents/order-processing.yaml").read_bytes())[0].value
    sentence, _ = blocks("sentence")
    assert parse_sentence(sentence, name="order-processing", tenant="customer-x").value == shown.value
    assert isinstance(shown.value, Intent)
    assert (
        parse_sentence(print_sentence(shown.value), name="order-processing", tenant="customer-x").value == shown.value
    )
    (lab_rule,) = [
        document
        for document in parse((ROOT / "topologies/rules/lab.yaml").read_bytes())
        if document.value == parse(rule)[0].value
    ]
    assert isinstance(lab_rule.value, Rule)


def test_english_proposes_the_sentence_below_it() -> None:
    (english,) = blocks("english")
    _, sentence = blocks("sentence")
    proposed = parse_sentence(propose(english.strip(), names()), name="x", tenant="t").value
    assert proposed == parse_sentence(sentence, name="x", tenant="t").value


LIMITS = {
    "steps to compile": (acl.MAX_STEPS,),
    "agreements with one neighbour": (Policy().max_agreements, Policy().max_share),
    "links of a path": (containers.NODES_MAX + 1, containers.PINNED_NODES_MAX + 1),
    "candidate paths": (reasons.CANDIDATE_PATHS,),
    "domains on a way": (agreement.MAX_DOMAINS,),
    "flows of an agreement": (agreement.MAX_FLOWS,),
    "lease of an agreement": (agreement.MAX_LEASE_S // 86400,),
    "prefixes and ports of all flows": (terms.MAX_ITEMS, bundles.MAX_SHARED_ITEMS),
    "lease of an intent": (scalars.MAX_DURATION_S // 86400,),
    "time for which who ended": (withdrawals.MAX_HOLD_OFF_S // 86400,),
    "depth of a condition": (condition.MAX_DEPTH, condition.MAX_MACROS, condition.MAX_COST),
    "rules that follow": (rule_effects.MAX_ROUNDS, rule.MAX_EXPLAIN),
    "faults of a text": (manifest.MAX_FAULTS,),
    "intents, and agreements, of which": (doctor.ROWS_MAX,),
    "nodes in a domain, and domains, through": (tracing.MAX_HOPS, trace.MAX_DOMAINS),
    "size of an intent": (manifest.MAX_INTENT_BYTES >> 10, condition.MAX_LENGTH),
    "a file of manifests": (tree.MAX_BYTES >> 20, tree.MAX_PARTS, tree.MAX_DEPTH),
    "body of a request": (guard.BODY_LIMIT_BYTES >> 20, schema.DEPTH_LIMIT),
    "connections to the API": (connections.OF_A_TOKEN_MAX, connections.KNOWN_MAX, connections.STRANGERS_MAX),
    "time for a request": (int(serve.REQUEST_DEADLINE_S), int(serve.HEADER_DEADLINE_S)),
    "events that wait": (shell.QUEUE_MAX,),
    "items of a page": (lists.LIMIT_MAX,),
    "flow records of past intervals": (traffic.KEPT_ROWS_MAX, int(traffic.KEPT_S), flow_totals.FLOWS_MAX),
    "incidents that are kept": (
        incidents.INCIDENTS_MAX,
        incidents.OPEN_MAX,
        incidents.FINDINGS_MAX,
        incidents.SUSPICIONS_MAX,
    ),
    "rows of flows that wait": (collector.QUEUED_ROWS_MAX, collector.BUFFERED_MAX >> 20),
    "of those that `GET /v1/flows?since=`": (telemetry.RECENT_ROWS_MAX,),
    "tokens": (tokens.TOKENS_MAX,),
    "call between domains": (peer.SIZE_BYTES_MAX >> 20, peer.BATCH_MAX, client.QUEUE_MAX),
    "answer of a plugin": (process.ANSWER_BYTES >> 20, cage.MEMORY_BYTES >> 20),
    "entries of a node": (SIZES["flow_policy"],),
    "`source_group`": (SIZES["source_group"],),
    "`sr_policy`": (SIZES["sr_policy"], SIZES["path_liveness"]),
    "`local_sid`": (SIZES["local_sid"], SIZES["next_hop"]),
    "`attachment`": (SIZES["attachment"], SIZES["punt_frame"]),
    "policy classes": (SIZES["policy_class_counter"], 0x10000 - numbering.FIRST_SERVICE),
    "ports of a node": (reasons.PORTS - 1,),
    "flows that a node remembers": (65536,),
    "hosts that a port remembers": (reasons.NEIGHBORS_OF_PORT,),
    "path of a Unix socket": (config.SOCKET_PATH_MAX,),
}


@pytest.mark.parametrize("what", LIMITS)
def test_limits_are_those_of_the_code(what: str) -> None:
    (row,) = re.findall(rf"^\| {re.escape(what)}.*$", TEXT.split("### Limits")[1], re.MULTILINE)
    numbers = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", row)}
    assert numbers >= set(LIMITS[what]), row
