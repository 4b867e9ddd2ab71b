"""How quickly intents are read."""

import copy
import time
from collections.abc import Callable

import msgspec

from bench.report import Row, row
from bench.slices import Slices
from controller.language.manifest import API_VERSION, decode_intents, parse
from controller.language.sentence import parse_sentence

SENTENCE = (
    "isolate shop/customer-x app=order-processing; allow insight/analytics/analytics-y tcp/443 icmp; via firewall; "
    "require latency <= 20ms, bandwidth >= 50Mbps, loss <= 0.1%, encryption wireguard, disjoint srlg, "
    "trust >= partner; prefer cost low; on violation degrade; priority 100; for 30d; "
    "test deny shop/customer-z to shop/customer-x"
)
BASIC = {
    "apiVersion": API_VERSION,
    "kind": "Intent",
    "metadata": {"name": "order-processing", "tenant": "customer-x"},
    "spec": {
        "isolate": {"network": "shop/customer-x", "select": {"app": "order-processing"}},
        "allow": [{"to": "insight/analytics/analytics-y", "ports": ["tcp/443", "icmp"]}],
        "require": {"latency_ms": {"max": 20}, "encryption": "wireguard", "trust": {"min": "partner"}},
        "lease": {"for": "30d"},
    },
}
"""The lab's order-processing intent, as the demo has it."""
BULK, SENTENCES, YAML = 20_000, 1_000, 1_000


def rows() -> list[Row]:
    manifests = []
    for number in range(BULK):
        manifest = copy.deepcopy(BASIC)
        manifest["metadata"] = {"name": f"order-{number}", "tenant": f"customer-{number % 1000}"}
        manifests.append(manifest)
    body = msgspec.json.encode(manifests)
    text = "---\n".join(msgspec.yaml.encode(manifest).decode() for manifest in manifests[:YAML])
    return [
        _rate("language.bulk_json_rate", BULK, lambda: len(decode_intents(body)), 50_000),
        _rate("language.yaml_rate", YAML, lambda: len(parse(text)), 2_000),
        _rate("language.sentence_rate", SENTENCES, _sentences, 1_500),
    ]


def _sentences() -> int:
    parsed = [parse_sentence(SENTENCE, name="order-processing", tenant="customer-x") for _ in range(SENTENCES)]
    return len(parsed)


def _rate(name: str, count: int, read: Callable[[], int], target: float, rounds: int = 8) -> Row:
    """Of CPU time."""
    taken = Slices()
    for _ in range(rounds):
        began = time.thread_time()
        if read() != count:
            raise RuntimeError("not all that was written was read")
        taken.add(name, time.thread_time() - began)
    rate, spread = count / taken.lower(name), taken.spread(name)
    return row(name, rate, "intents/s", better="higher", target=target, spread=spread)
