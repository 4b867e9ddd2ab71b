"""`./run demo graph`: what is known of other networks, how the ones that take part are chosen among them, and how the
way stays alive. Nothing of a foreign domain is typed in but its key, endpoint and trust."""

import contextlib
import functools
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from topologies import lab, processes, record
from topologies.demo.run import Demo

ANALYTICS = "10.2.0.10"
"""Of ay1."""
ORDERS = (
    "allow any service with capability analytics, trust >= partner icmp from shop/customer-x app=order-processing; "
    "require latency <= 20ms, encryption wireguard, trust >= partner"
)
REPORTS = (
    "allow insight/analytics/analytics-y icmp from shop/customer-x app=web; "
    "require latency <= 20ms, encryption wireguard; on violation degrade"
)
ARCHIVE = (
    "allow insight/archive/archive-z tcp/9000 from shop/customer-x app=order-processing; "
    "allow insight/archive icmp from shop/customer-x app=order-processing"
)
ACCEPTED = '{from: shop, source: shop/customer-x, to: "insight/archive*", ports: [tcp/9000, icmp]}'
CARRIED = ("Active", "Degraded")
TRANSIT = (("t1", "tc1"), ("t1", "tc2"))
LIMIT_S = 90.0


def run(demo: Demo) -> None:
    baseline = demo.entries()
    known(demo)
    chosen(demo)
    with pings(demo, 20) as lost:
        demo.step("3. The way that transit has chosen is cut")
        demo.stitch("lab", "link", *TRANSIT[0], "down")
        until(demo, "transit takes the other one", lambda: passes(demo, "tc2"))
    demo.check("few packets were lost", 0 <= lost() <= 60, f"{lost()} of 1000, one each 20 ms")
    both_cut(demo)
    mended(demo)
    drained(demo)
    same_addresses(demo)
    withdrawn(demo, baseline)


def known(demo: Demo) -> None:
    demo.step("1. What shop knows: stitch get domains, networks, links; stitch graph export")
    until(demo, "insight's networks are heard of", lambda: "insight/archive" in names(demo, "networks"))
    until(demo, "all links are heard by LLDP", lambda: all(map(is_heard, own_links(demo))))
    for domain in demo.get("domains"):
        spec = {name: str(value).split("\n")[0] for name, value in domain["spec"].items()}
        demo.say(f"  domain        {domain['metadata']['name']}: {', '.join(spec)}, trust {spec.get('trust', '-')}")
    foreign = [each for each in demo.get("networks") if each["metadata"]["name"].startswith("insight/")]
    for each in foreign:
        spec = each["spec"]
        demo.say(f"  network       {each['metadata']['name']}: {spec['prefixes']} {spec.get('capabilities', [])}")
    learnt = [each["status"].get("source", "") for each in foreign]
    demo.check("its networks were advertised, not typed in", bool(learnt) and "operator" not in learnt, str(learnt))
    graph = json.loads(demo.stitch("graph", "export", "--format", "json"))
    nodes, links = len(graph["nodes"]), len(graph.get("links", graph.get("edges", [])))
    demo.check("the graph has them", nodes > 0 and links > 0, f"{nodes} nodes, {links} links")


def chosen(demo: Demo) -> None:
    demo.step("2. Two intents; the first says what it needs, not who has it")
    for name, sentence in (("orders", ORDERS), ("reports", REPORTS)):
        demo.say(f'     stitch intent "{sentence}"')
        demo.stitch("intent", sentence, "--name", name, "--tenant", "customer-x", "--yes", "--wait", "60", timeout_s=90)
        demo.check(f"{name} is Active", phase(demo, name) == "Active", " > ".join(status(demo, name)["path"]))
    (selection,) = status(demo, "orders")["selections"]
    demo.check("analytics-y was chosen", selection["service"] == "insight/analytics/analytics-y", json.dumps(selection))
    demo.check("it finds its way through transit", "transit" in status(demo, "orders")["path"], "as above")
    for host in ("cx1", "cx2"):
        seen = demo.ping(host, ANALYTICS)
        demo.check(f"{host} reaches ay1", seen is not None, f"{seen} ms")
    until(demo, "the paths are measured", lambda: bool(measured(demo)))
    for path in measured(demo):
        demo.say(f"  path          {path}")


def both_cut(demo: Demo) -> None:
    demo.step("4. Both ways of transit are cut")
    demo.stitch("lab", "link", *TRANSIT[1], "down")
    until(demo, "reports goes on by the slow way", lambda: phase(demo, "reports") == "Degraded")
    demo.say(f"     {reasons(demo, 'reports')}")
    until(demo, "orders stops: nothing that is left can be trusted", lambda: phase(demo, "orders") not in CARRIED)
    demo.say(f"     {reasons(demo, 'orders')}")
    demo.check("cx1 does not reach ay1", demo.ping("cx1", ANALYTICS, 1) is None, "no answer")
    seen = demo.ping("cx2", ANALYTICS)
    demo.check("cx2 reaches ay1 by the internet", seen is not None and seen >= 80, f"{seen} ms")


def mended(demo: Demo) -> None:
    demo.step("5. Both are mended")
    for link in TRANSIT:
        demo.stitch("lab", "link", *link, "up")
    for name in ("orders", "reports"):
        until(demo, f"{name} is Active again", functools.partial(is_active, demo, name))
    for host in ("cx1", "cx2"):
        seen = demo.ping(host, ANALYTICS)
        demo.check(f"{host} reaches ay1, quickly", seen is not None and seen < 40, f"{seen} ms")


def drained(demo: Demo) -> None:
    demo.step("6. stitch node drain tc1, while packets pass")
    until(demo, "transit takes its first way again", lambda: passes(demo, "tc1"))
    with pings(demo, 2) as lost:
        demo.say("     " + demo.stitch("node", "drain", "tc1", domain="transit").strip().replace("\n", "\n     "))
    demo.check("no packet was lost", lost() == 0, f"{lost()} of 1000, one each 2 ms")
    demo.stitch("node", "undrain", "tc1", domain="transit")


def same_addresses(demo: Demo) -> None:
    demo.step("7. customer-x and the archive have the same addresses; insight's policy accepts it from now on")
    policy = record.directory_of(demo.lab) / "insight" / "policy.yaml"
    policy.write_text(policy.read_text().replace("accept:\n", f"accept:\n- {ACCEPTED}\n", 1))
    demo.say("     " + demo.stitch("policy", "reload", domain="insight").strip().replace("\n", "\n     "))
    demo.say(f'     stitch intent "{ARCHIVE}"')
    demo.stitch("intent", ARCHIVE, "--name", "keep", "--tenant", "customer-x", "--yes", "--wait", "60", timeout_s=90)
    known_as = {each["known_there_as"]: each["address"] for each in status(demo, "keep")["endpoints"]}
    for there, here in known_as.items():
        seen = demo.ping("cx1", here)
        demo.check(f"cx1 reaches ar1, which is {there} itself, at {here}", seen is not None, f"{seen} ms")
    demo.check("it has addresses here", bool(known_as), str(known_as))


def withdrawn(demo: Demo, baseline: dict[str, frozenset[bytes]]) -> None:
    demo.step("8. All are withdrawn")
    demo.stitch("delete", "intent/orders", "intent/reports", "intent/keep")
    deadline = time.monotonic() + LIMIT_S
    while (now := demo.entries()) != baseline and time.monotonic() < deadline:
        time.sleep(0.2)
    total = sum(map(len, now.values()))
    demo.check("all nodes, read back, have the entries they had before", now == baseline, f"{total} entries")


# ---- what is asked of controllers


def names(demo: Demo, kind: str) -> set[str]:
    return {each["metadata"]["name"] for each in demo.get(kind)}


def own_links(demo: Demo) -> list[dict[str, Any]]:
    """Inside the domain: between domains there is an underlay that carries WireGuard and nothing else."""
    return [link for link in demo.get("links") if "b" in link["spec"]]


def is_heard(link: dict[str, Any]) -> bool:
    return bool(any(each["source"] == "discovery" for each in link["status"]["said"]))


def status(demo: Demo, intent: str) -> dict[str, Any]:
    seen: dict[str, Any] = next(each for each in demo.get("intents") if each["metadata"]["name"] == intent)["status"]
    return seen


def phase(demo: Demo, intent: str) -> str:
    return str(status(demo, intent)["phase"])


def is_active(demo: Demo, intent: str) -> bool:
    return phase(demo, intent) == "Active"


def reasons(demo: Demo, intent: str) -> str:
    return "; ".join(each["reason"] for each in status(demo, intent)["conditions"])


def passes(demo: Demo, node: str) -> bool:
    """Whether all that transit carries takes it."""
    ways = [agreement["status"]["path"] for agreement in demo.get("agreements", "transit")]
    return bool(ways) and all(node in way for way in ways)


def measured(demo: Demo) -> list[str]:
    """Of transit's paths."""
    return [
        f"by {' > '.join(segments)}: {seen['latency_ms']} ms, {seen['loss_percent']} % lost"
        for agreement in demo.get("agreements", "transit")
        for path in agreement["status"].get("paths", ())
        for segments, seen in zip(path["segments"], path.get("measured", ()), strict=False)
    ]


def until(demo: Demo, what: str, holds: Callable[[], bool]) -> None:
    began_s = time.monotonic()
    while not (held := holds()) and time.monotonic() - began_s < LIMIT_S:
        time.sleep(0.2)
    demo.check(what, held, f"after {time.monotonic() - began_s:.1f} s")


@contextlib.contextmanager
def pings(demo: Demo, interval_ms: int) -> Iterator[Callable[[], int]]:
    """While it lasts, and until 1000 are sent, cx1 pings ay1; then, how many were not answered (-1: not known)."""
    command = ("ping", "-q", "-c", "1000", "-i", str(interval_ms / 1000), ANALYTICS)
    running = subprocess.Popen(
        lab.command(lab.find(demo.lab), "cx1", command),
        env=processes.environment(demo.lab),
        stdout=subprocess.PIPE,
        text=True,
    )
    lost = -1
    time.sleep(0.5)
    try:
        yield lambda: lost
    finally:
        said, _ = running.communicate(timeout=120)
        if (sums := re.search(r"(\d+) packets transmitted, (\d+) received", said)) is not None:
            lost = int(sums[1]) - int(sums[2])
