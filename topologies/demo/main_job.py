"""`./run demo main`: the reference lab does the whole job, through the same commands that a person would type."""

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from topologies import lab, processes
from topologies.demo.run import REPORT, ROOT, STITCH, Demo

INTENT = "topologies/intents/order-processing.yaml"
RULES = "topologies/rules/lab.yaml"
SENTENCE = (
    "isolate shop/customer-x app=order-processing; allow insight/analytics/analytics-y tcp/443 icmp; "
    "class realtime; for 30d"
)
DOMAINS = ("shop", "transit", "insight")
SECRET = "order 4711 of customer x"
"""What the hosts say to each other, and nobody may read on the way."""

ORDER_CLIENT, WEB_CLIENT, OTHER_CUSTOMER = "cx1", "cx2", "cz1"
ANALYTICS, ANALYTICS6 = "10.2.0.10", "2001:db8:2::10"
ORDER_ADDRESS, WEB_ADDRESS, ARCHIVE_ADDRESS = "10.1.0.11", "10.1.0.12", "10.1.0.10"


@contextlib.contextmanager
def servers(demo: Demo) -> Iterator[None]:
    """A TCP server that echoes in capitals, wherever somebody may or may not reach one."""
    script = (
        "import socketserver, sys\n"
        "class Echo(socketserver.StreamRequestHandler):\n"
        "    def handle(self): self.wfile.write(self.rfile.read().upper())\n"
        "class Server(socketserver.ThreadingTCPServer):\n"
        "    address_family = 10; allow_reuse_address = True\n"
        "Server(('::', int(sys.argv[1])), Echo).serve_forever()\n"
    )
    places = (("ay1", "443"), ("ay1", "80"), ("ar1", "9000"), ("cx1", "8080"), ("cx2", "8080"))
    record, environment = lab.find(demo.lab), processes.environment(demo.lab)
    running = [
        subprocess.Popen(lab.command(record, host, (sys.executable, "-c", script, port)), env=environment)
        for host, port in places
    ]
    try:
        for host, port in places:
            deadline = time.monotonic() + 10
            while not demo.on(host, "ss", "-Hltn", f"sport = :{port}").stdout:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"no server on {host} port {port} within 10 s")
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def before(demo: Demo) -> None:
    demo.step("1. Before the intent")
    for address in (ANALYTICS, ANALYTICS6):
        demo.check(f"cx1 cannot reach ay1 at {address}", demo.ping("cx1", address, 1) is None, "no answer")
    for address in (WEB_ADDRESS, "2001:db8:1::12"):
        seen = demo.ping("cx1", address)
        demo.check(f"cx1 reaches cx2 at {address} (one network)", seen is not None, f"{seen} ms")


def apply(demo: Demo) -> None:
    demo.step(f"2. stitch apply -f {INTENT}")
    demo.say("".join(f"     {line}\n" for line in Path(ROOT / INTENT).read_text().splitlines()).rstrip("\n"))
    started_s = time.monotonic()
    answer = demo.stitch("apply", "-f", INTENT, "--wait", "20")
    demo.check("the intent is Active", True, f"after {time.monotonic() - started_s:.2f} s; {answer.strip()}")


def show(demo: Demo) -> str:
    """Returns what packets from t1 to t2 shall have as destination: the container of the planned segments."""
    demo.step("3. What became of it")
    [intent] = demo.get("intents")
    status = intent["status"]
    for requirement in status["requirements"]:
        demo.say(f"  requirement   {requirement}")
    demo.say(f"  path          {' > '.join(status['path'])}")
    latency_ms = status["predicted"]["latency_ms"]
    demo.check("predicted latency is under 20 ms", latency_ms <= 20, f"{latency_ms} ms one way")
    demo.check("the path goes through transit", "transit" in status["path"], "as above")
    container = ""
    for domain in DOMAINS:
        for agreement in demo.get("agreements", domain):
            name, spec, seen = agreement["metadata"]["name"], agreement["spec"], agreement["status"]
            if domain == "transit":
                planned = zip(seen["segments"], seen["containers"], strict=True)
                container = container or next((sent[0] for segments, sent in planned if len(segments) > 1), "")
            demo.say(f"  agreement     {domain}: {name} between {spec['offeror']} and {spec['acceptor']}")
            demo.say(f"  segments      {domain}: {' | '.join(' '.join(segments) for segments in seen['segments'])}")
            demo.say(
                f"  sent as       {domain}: {' | '.join(' '.join(containers) for containers in seen['containers'])}"
            )
            file = REPORT / f"{domain}-{name.replace(':', '-')}.json"
            file.write_text(json.dumps(agreement))
            verified = demo.stitch("agreement", "verify", str(file), domain=domain, check=False).strip()
            both = f"signed by {spec['offeror']} and {spec['acceptor']}"
            demo.check(f"{domain} holds both signatures of {name}", both in verified, verified)
        for tunnel in demo.get("tunnels", domain):
            seen, spec = tunnel["status"], tunnel["spec"]
            demo.say(
                f"  tunnel        {domain}: {tunnel['metadata']['name']} to {spec['peer_endpoint']}, MTU {seen['mtu']}"
            )
        counts: dict[str, int] = {}
        for entry in demo.get("entries", domain):
            counts[entry["spec"]["node"]] = counts.get(entry["spec"]["node"], 0) + 1
        demo.say(f"  entries       {domain}: " + ", ".join(f"{node} {count}" for node, count in sorted(counts.items())))
    return container


def works(demo: Demo) -> None:
    demo.step("4. What must work works, what must fail fails")
    for address in (ANALYTICS, ANALYTICS6):
        seen = demo.ping("cx1", address, 5)
        demo.check(
            f"cx1 pings ay1 at {address}", seen is not None and seen >= 8, f"{seen} ms round trip (8 ms are the links')"
        )
        said = demo.talk("cx1", address, 443, SECRET)
        demo.check(f"cx1 talks to ay1 at {address} on tcp/443", SECRET.upper() in said, repr(said.strip("\0")))

    counted = {domain: demo.drops(domain) for domain in ("shop", "insight")}

    def refused(what: str, domain: str, node: str, reason: str, attempt: Any) -> None:
        earlier = counted[domain].get((node, reason), 0)
        reached = bool(attempt())
        counted[domain] = demo.drops(domain)
        dropped = counted[domain].get((node, reason), 0) - earlier
        demo.check(f"{what} fails", not reached and dropped > 0, f"{dropped} packets dropped at {node}: {reason}")

    refused("cx1 to cx2 (isolation)", "shop", "se1", "isolated", lambda: demo.ping("cx1", WEB_ADDRESS, 1))
    refused("cx2 to cx1 (isolation)", "shop", "se1", "isolated", lambda: demo.ping("cx2", ORDER_ADDRESS, 1))
    refused("cx2 to ay1", "shop", "se1", "not_permitted", lambda: demo.talk("cx2", ANALYTICS, 443, SECRET))
    refused("cz1 to ay1", "shop", "se1", "not_permitted", lambda: demo.talk("cz1", ANALYTICS, 443, SECRET))
    # ar1's address lies in customer-x's own prefix: cx1 asks by ARP who has it, and nobody answers.
    refused("cx1 to ar1", "shop", "se1", "neighbor_ignored", lambda: demo.talk("cx1", ARCHIVE_ADDRESS, 9000, SECRET))
    refused(
        "ay1 to cx1, a new connection",
        "insight",
        "ie1",
        "not_permitted",
        lambda: demo.talk("ay1", ORDER_ADDRESS, 8080, SECRET),
    )
    refused("cx1 to ay1 on tcp/80", "shop", "se1", "isolated", lambda: demo.talk("cx1", ANALYTICS, 80, SECRET))


def tshark(path: Path, *arguments: str) -> list[str]:
    done = subprocess.run(["tshark", "-r", str(path), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def capture(demo: Demo, links: tuple[tuple[str, str], ...]) -> dict[tuple[str, str], Path]:
    """What crosses these links while cx1 talks to ay1."""
    files = {link: REPORT / f"{link[0]}-{link[1]}.pcap" for link in links}
    for file in files.values():
        file.unlink(missing_ok=True)
    running = [
        subprocess.Popen(
            [STITCH, "lab", "capture", "--lab", demo.lab, *link, "--seconds", "6", "--count", "1000", "-w", str(file)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        for link, file in files.items()
    ]
    deadline = time.monotonic() + 15
    while not all(file.exists() for file in files.values()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"no capture within 15 s: {[str(path) for path in files.values() if not path.exists()]}")
        time.sleep(0.1)
    demo.ping("cx1", ANALYTICS, 3)
    demo.talk("cx1", ANALYTICS6, 443, SECRET)
    for process in running:
        process.wait(timeout=20)
    return files


def captures(demo: Demo, container: str) -> None:
    demo.step("5. On the wire")
    links = (("sg1", "t1"), ("t2", "ig1"), ("sg1", "ig1"), ("t1", "tc1"))
    files = capture(demo, links)
    for link in links[:3]:
        name, file = "-".join(link), files[link]
        frames, wireguard = len(tshark(file)), len(tshark(file, "-Y", "wg"))
        clear = len(
            tshark(file, "-Y", f"ip.addr == {ORDER_ADDRESS} || ip.addr == {ANALYTICS} || ipv6.addr == 2001:db8::/32")
        )
        leaked = SECRET.encode() in file.read_bytes()
        expected = frames == 0 if link == ("sg1", "ig1") else wireguard > 0
        demo.check(
            f"{name}: WireGuard only" if link != ("sg1", "ig1") else f"{name}: unused",
            expected and clear == 0 and not leaked,
            f"{frames} frames, {wireguard} WireGuard, {clear} with the customers' addresses, "
            f"what they say {'in clear' if leaked else 'not to be found'}",
        )
    srv6 = "ipv6.dst[0:2] == 5f:00 && (ipv6.nxt == 4 || ipv6.nxt == 41)"
    headers = tshark(files["t1", "tc1"], "-Y", srv6, "-T", "fields", "-e", "ipv6.dst", "-E", "occurrence=f")
    seen = set(headers)
    demo.check(
        "t1-tc1: SRv6 with the planned segments in one container (tshark)",
        container in seen,
        f"{len(headers)} packets; planned {container}; seen {', '.join(sorted(seen))}",
    )


def counts(demo: Demo) -> None:
    demo.step("6. stitch flows against what the host sent (its own nftables counters)")
    demo.on(
        "cx1", "nft",
        "add table inet demo; add chain inet demo out { type filter hook output priority 0; };"
        f"add rule inet demo out ip daddr {ANALYTICS} icmp type echo-request counter comment \"icmp\";"
        f"add rule inet demo out ip daddr {ANALYTICS} tcp dport 443 counter comment \"tcp\";",
    )  # fmt: skip

    def flows() -> dict[str, tuple[int, int]]:
        total = {"icmp": (0, 0), "tcp": (0, 0)}
        for row in json.loads(demo.stitch("flows", "--intent", "order-processing", "-o", "json")):
            name = {1: "icmp", 6: "tcp"}.get(row["protocol"])
            if name and row["node"] == "se1" and row["destination_address"] == ANALYTICS:
                total[name] = (total[name][0] + row["packets"], total[name][1] + row["bytes"])
        return total

    time.sleep(1.2)
    earlier = flows()
    demo.ping("cx1", ANALYTICS, 25)
    for _ in range(3):
        demo.talk("cx1", ANALYTICS, 443, SECRET)
    time.sleep(2.2)
    later = flows()
    listing = demo.on("cx1", "nft", "list", "table", "inet", "demo").stdout
    for name in ("icmp", "tcp"):
        counter = re.search(rf"packets (\d+) bytes (\d+) comment \"{name}\"", listing)
        sent = (int(counter.group(1)), int(counter.group(2))) if counter else (-1, -1)
        seen = (later[name][0] - earlier[name][0], later[name][1] - earlier[name][1])
        demo.check(
            f"{name}: flow records equal what cx1 sent",
            seen == sent and sent[0] > 0,
            f"{seen} = {sent} (packets, bytes)",
        )
    demo.say("".join(f"     {line}\n" for line in demo.stitch("flows").splitlines()[:8]).rstrip("\n"))


def withdraw(demo: Demo, baseline: dict[str, frozenset[bytes]]) -> None:
    demo.step("7. stitch delete intent/order-processing")
    started_s = time.monotonic()
    demo.stitch("delete", "intent/order-processing")
    asked_s = time.monotonic() - started_s
    gone = demo.ping("cx1", ANALYTICS, 1) is None
    demo.check("traffic stopped", gone, f"no answer to a ping sent {asked_s:.2f} s after the command began")
    deadline = time.monotonic() + 5
    while (now := demo.entries()) != baseline and time.monotonic() < deadline:
        time.sleep(0.1)
    total = sum(map(len, now.values()))
    demo.check("all nodes, read back, have the entries they had before", now == baseline, f"{total} entries")
    for node in ("sg1", "t1", "t2", "ig1"):
        left = demo.on(
            node, "sh", "-c", "ip -o link | grep -E ': (wg|t|k)-'; ip -6 rule | grep -E '(wg|k)-'"
        ).stdout.strip()
        demo.check(f"{node} has no tunnel left", not left, left or "no device, no rule")
    seen = demo.ping("cx1", WEB_ADDRESS)
    demo.check("cx1 reaches cx2 again", seen is not None, f"{seen} ms")


def sentence(demo: Demo) -> None:
    demo.step(f"8. The same in a sentence, under the rules of {RULES}")
    demo.say("     " + demo.stitch("apply", "-f", RULES).strip().replace("\n", "\n     "))
    demo.say(f'     stitch intent "{SENTENCE}"')
    demo.stitch("intent", SENTENCE, "--name", "order-processing", "--tenant", "customer-x", "--yes", "--wait", "20")
    [intent] = demo.get("intents")
    origins = intent["status"]["origins"]
    for origin in origins:
        explained = f": {origin['explain']}" if "explain" in origin else ""
        demo.say(f"  {origin['requirement']:<22}{origin['from']}{explained}")
    for rule in ("cards-are-encrypted", "realtime-is-quick"):
        demo.check(f"the rule {rule} changed what is required", rule in json.dumps(origins), "as above")
    files = capture(demo, (("se1", "sg1"), ("t1", "tc1")))
    for link, locator, what in (
        (("se1", "sg1"), "00:02", "what cx1 sends"),
        (("t1", "tc1"), "00:02", "what cx1 sends"),
        (("t1", "tc1"), "00:01", "what comes back"),
    ):
        towards = f"ipv6.dst[0:2] == 5f:00 && ipv6.dst[4:2] == {locator}"
        marked = len(tshark(files[link], "-Y", f"{towards} && ipv6.tclass.dscp == 46"))
        demo.check(
            f"{'-'.join(link)}: {what} is marked EF, as the rule of shop says (tshark)",
            marked == len(tshark(files[link], "-Y", towards)) > 0,
            f"{marked} packets",
        )
    demo.stitch("delete", "intent/order-processing")
    demo.stitch("delete", "-f", RULES)


def run(demo: Demo) -> None:
    baseline = demo.entries()
    before(demo)
    with servers(demo):
        apply(demo)
        container = show(demo)
        works(demo)
        captures(demo, container)
        counts(demo)
        withdraw(demo, baseline)
        sentence(demo)
