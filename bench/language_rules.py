"""How many intents a second are translated with 200 rules in force."""

import time
from pathlib import Path

from bench.report import Row, row
from bench.slices import Slices
from controller.fulfillment.rule_engine import rule_engine
from controller.fulfillment.translate import translate
from controller.language.manifest import parse
from controller.model.intent import Allow, Intent, Ports, Require, Selector, Trust
from controller.model.inventory import Attachment, Domain, Inventory, Network, Service
from controller.model.requirements import Requirements
from controller.model.rule import Rule, Then

RULES, INTENTS, NETWORKS = 200, 4_000, 40
LAB = Path(__file__).parent.parent / "topologies" / "rules" / "lab.yaml"
WHENS = (
    '"tier={n}" in source.labels && destination.domain != source.domain',
    'intent.tenant == "tenant-{n}" && destination.trust < own',
    'destination.service.endsWith("/service-{n}") || intent.name.startsWith("batch-{n}-")',
    'source.labels.exists(label, label.startsWith("zone-{n}=")) && intent.latency_ms > 10.0',
    'effective.class == "class-{n}" && effective.latency_ms > 5.0',
)


def rules() -> list[Rule]:
    """The lab's, and others of the kinds that operators write; a few of them hold for each intent."""
    laid_down = [document.value for document in parse(LAB.read_bytes()) if isinstance(document.value, Rule)]
    for n in range(RULES - len(laid_down)):
        when = WHENS[n % len(WHENS)].format(n=n)
        then = Then(require=Require(latency_us_max=50_000 - n), service_class=f"class-{n + 1}" if n % 10 == 2 else "")
        laid_down.append(Rule(name=f"rule-{n}", when=when, then=then, priority=1 + n, explain="For the benchmark."))
    return laid_down


def inventory() -> Inventory:
    networks, services = {}, {}
    for n in range(NETWORKS):
        hosts = tuple(
            Attachment(
                name=f"h{n}-{host}",
                node="e1",
                port=1 + host,
                addresses=(f"10.{n}.0.{10 + host}", f"2001:db8:{n:x}::{10 + host:x}"),
                labels=(("app", f"app-{host}"), ("tier", str(host * 5))),
            )
            for host in range(8)
        )
        networks[f"shop/net-{n}"] = Network(
            name=f"shop/net-{n}", prefixes=(f"10.{n}.0.0/24", f"2001:db8:{n:x}::/64"), attachments=hosts
        )
        name = f"far/net-{n}"
        networks[name] = Network(name=name, prefixes=(f"10.{100 + n}.0.0/24",), trust=Trust.PARTNER)
        service = f"{name}/service-{n}"
        services[service] = Service(
            name=service, addresses=(f"10.{100 + n}.0.10",), ports=(Ports(protocol="tcp", first=443, last=443),)
        )
    domains = {
        "shop": Domain(name="shop", sid_block="5f00:1::/32", own=True),
        "far": Domain(name="far", sid_block="5f00:2::/32", trust=Trust.PARTNER),
    }
    return Inventory(domains=domains, networks=networks, services=services)


def intents() -> list[Intent]:
    wanted = []
    for n in range(INTENTS):
        to = f"far/net-{n * 7 % NETWORKS}"
        source = Selector(network=f"shop/net-{n % NETWORKS}", labels=(("app", f"app-{n % 8}"),))
        allow = Allow(to=f"{to}/service-{n * 7 % NETWORKS}", source=source)
        require = Require(latency_us_max=60_000 + n)
        wanted.append(Intent(name=f"intent-{n}", tenant=f"tenant-{n % 300}", allow=(allow,), require=require))
    return wanted


def rows() -> list[Row]:
    """Every intent is another, and each round begins with rules that have not been asked yet; of CPU time."""
    known, wanted = inventory(), intents()
    taken, fired = Slices(), 0
    for _ in range(5):
        laid_down = rule_engine(rules())
        began = time.thread_time()
        translations = [translate(intent, laid_down, known) for intent in wanted]
        taken.add("all", time.thread_time() - began)
        fired = sum(
            isinstance(translation, Requirements) and any("rule" in o.origin for o in translation.origins)
            for translation in translations
        )
    if not 0 < fired <= INTENTS or any(not isinstance(translation, Requirements) for translation in translations):
        raise RuntimeError("the benchmark's intents are wrong, or no rule holds for any")
    rate, spread = INTENTS / taken.lower("all"), taken.spread("all")
    return [row("language.translate_rate", rate, "intents/s", better="higher", target=2_000, spread=spread)]
