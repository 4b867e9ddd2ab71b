"""The whole of it in the reference lab: three controllers, eight agents, real packets; and what survives what."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from echo_load import EchoLoad, no_packet_lost
from waiting import LIMIT_S, wait_for

from dataplane.p4runtime import p4info
from dataplane.tables import layout
from dataplane.tables.layout import ACTION, number
from tests.asked_flows import BELOW
from topologies import lab
from topologies.daemons import process_of
from topologies.readback import entries_on
from topologies.record import LabRecord, directory_of

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parent.parent
STITCH = Path(sys.executable).parent / "stitch"
NAME = f"test-job-{os.getpid()}"
INTENT = ROOT / "topologies/intents/order-processing.yaml"
DOMAINS = ("shop", "transit", "insight")
GATEWAYS = ("sg1", "t1", "t2", "ig1")
ANALYTICS, ORDERS, WEB = "10.2.0.10", "10.1.0.11", "10.1.0.12"
ORDERS_IPV6 = "2001:db8:1::11"
LAYOUT = layout.of(p4info.load())
RATE = 1000
ASKED = int(os.environ.get("NETSTITCH_ASKED", "1000"))


@pytest.fixture(scope="module")
def record() -> Iterator[LabRecord]:
    started = lab.up("three-domains", NAME, say=lambda _: None)
    yield started
    lab.down(NAME)


@pytest.fixture
def active(record: LabRecord) -> Iterator[LabRecord]:
    """With the intent in force; without it again afterwards."""
    stitch("apply", "-f", str(INTENT), "--wait", "300")
    wait_for(lambda: reaches(record, "cx1", ANALYTICS), "cx1 reaches ay1")
    yield record
    stitch("delete", "intent/order-processing")


def stitch(*arguments: str, domain: str = "shop", expected: int = 0) -> str:
    command = [str(STITCH), "--lab", NAME, "--domain", domain, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S + 60)
    assert done.returncode == expected, (arguments, done.returncode, done.stdout, done.stderr)
    return done.stdout


def refused(*arguments: str, status: int = 1) -> str:
    """What is said where the answer is no."""
    command = [str(STITCH), "--lab", NAME, "--domain", "shop", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S + 60)
    assert done.returncode == status, (arguments, done.returncode, done.stdout, done.stderr)
    return done.stderr


def get(kind: str, domain: str = "shop") -> Any:
    return json.loads(stitch("get", kind, "-o", "json", domain=domain))


def reaches(record: LabRecord, host: str, address: str) -> bool:
    return lab.execute(record, host, "ping", "-c", "1", "-W", "1", "-q", address).returncode == 0


def load(record: LabRecord) -> AbstractContextManager[EchoLoad]:
    """1,000 packets/s from cx1 to ay1 meanwhile, of which none may be lost."""
    return no_packet_lost(lambda *program: lab.command(record, "cx1", program), ANALYTICS)


@contextmanager
def trespassers(record: LabRecord) -> Iterator[None]:
    """cx2 and cz1 try to reach ay1 all the time; ay1 counts what arrives that is not cx1's, and nothing may."""
    table = (
        "table ip trespass { chain arriving { type filter hook input priority 0; icmp type echo-request ip saddr != "
    )
    lab.execute(record, "ay1", "nft", table + ORDERS + " counter; }; }")
    command = ("ping", "-q", "-i", "0.01", ANALYTICS)
    running = [
        subprocess.Popen(lab.command(record, host, command), stdout=subprocess.DEVNULL) for host in ("cx2", "cz1")
    ]
    # cz1 has cx1's address on purpose: if it got through, cx1 would see answers to what it never asked.
    unasked = (
        "table ip unasked { chain arriving { type filter hook input priority 0; icmp type echo-reply counter; }; }"
    )
    lab.execute(record, "cz1", "nft", unasked)
    try:
        yield
        for host, name in (("ay1", "trespass"), ("cz1", "unasked")):
            listing = lab.execute(record, host, "nft", "list", "table", "ip", name).stdout
            assert "packets 0 bytes 0" in listing, (host, listing)
    finally:
        for process in running:
            process.terminate()
            process.wait()
        lab.execute(record, "ay1", "nft", "delete", "table", "ip", "trespass")
        lab.execute(record, "cz1", "nft", "delete", "table", "ip", "unasked")


def kill(name: str) -> None:
    process = process_of(NAME, name)
    assert process is not None
    os.kill(process, signal.SIGKILL)


def log_of(name: str) -> list[dict[str, Any]]:
    lines = (directory_of(NAME) / f"{name}.log").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def read_back(record: LabRecord) -> dict[str, frozenset[bytes]]:
    return {node.name: entries_on(record, node.name) for node in lab.topology_of(record).nodes}


def test_default_deny_between_networks_and_permit_inside(record: LabRecord) -> None:
    assert not reaches(record, "cx1", ANALYTICS)
    assert not reaches(record, "cx1", "2001:db8:2::10")
    for address in (WEB, "2001:db8:1::12"):
        wait_for(lambda there=address: reaches(record, "cx1", there), f"cx1 reaches cx2 at {address}")


def test_doctor_says_which_wireguard_and_which_links_are_used(record: LabRecord) -> None:
    checks = json.loads(stitch("doctor", "-o", "json"))["checks"]
    seen = {(check["subject"], check["name"]): check["detail"] for check in checks if check["ok"]}
    assert seen["nodes/sg1", "wireguard"] in ("kernel", "wireguard-go")
    assert ("nodes/se1", "wireguard") not in seen
    assert seen[f"lab/{NAME}", "links"].startswith("TAP relay")


def test_a_cut_link_and_what_tunnels_carry_are_shown(active: LabRecord) -> None:
    def sent() -> int:
        return int(get("tunnels")[0]["status"]["sent_bytes"])

    before = sent()
    lab.execute(active, "cx1", "ping", "-q", "-c", "20", "-i", "0.02", "-s", "1000", ANALYTICS)
    wait_for(lambda: sent() > before + 20_000, "the tunnel counts what it carries")

    def carrier() -> bool:
        return bool(
            next(link for link in get("links", "transit") if link["metadata"]["name"] == "t1-tc2")["status"]["carrier"]
        )

    stitch("lab", "link", "t1", "tc2", "down")
    wait_for(lambda: not carrier(), "the cut link has no carrier")
    stitch("lab", "link", "t1", "tc2", "up")
    wait_for(carrier, "the link has a carrier again")


def test_traffic_goes_around_a_cut_link_and_an_intent_without_any_way_is_not_active(active: LabRecord) -> None:
    def way() -> set[str]:
        return {
            " ".join(agreement["status"]["path"])
            for agreement in get("agreements", "transit")
            if agreement["spec"]["offeror"] == "shop"
        }

    def elsewhere() -> dict[str, frozenset[bytes]]:
        return {node: entries_on(active, node) for node in ("se1", "sg1", "ig1", "ie1")}

    wait_for(lambda: all(link["status"]["in_use"] for link in get("links", "transit")), "all links are in use")
    wait_for(lambda: way() == {"shop t1 tc1 t2 insight"}, "the northern way is taken")
    slowly = "allow insight/analytics/analytics-y icmp from shop/customer-x app=web; require latency <= 20ms"
    stitch("intent", f"{slowly}; on violation degrade", "--name", "slowly", "--tenant", "customer-x", "--wait", "300")
    before = elsewhere()
    try:
        stitch("lab", "link", "t1", "tc1", "down")
        wait_for(lambda: reaches(active, "cx1", ANALYTICS), "cx1 reaches ay1 around the cut link")
        wait_for(lambda: way() == {"shop t1 tc2 t2 insight"}, "the controller has moved it too")
        wait_for(lambda: phase() == "Active", "the intent is Active")
        assert elsewhere() == before
        stitch("lab", "link", "t1", "tc2", "down")
        wait_for(lambda: phase() != "Active", "the intent is not Active any more")
        wait_for(lambda: phase() == "Unsatisfiable", "transit leads nowhere any more")
        wait_for(lambda: phase("slowly") == "Degraded", "who does not need the carrier goes on by the internet")
        wait_for(lambda: reaches(active, "cx2", ANALYTICS), "cx2 reaches ay1 by the slow way")
        assert not reaches(active, "cx1", ANALYTICS)
    finally:
        stitch("lab", "link", "t1", "tc1", "up")
        stitch("lab", "link", "t1", "tc2", "up")
    for name in ("order-processing", "slowly"):
        wait_for(lambda each=name: phase(each) == "Active", f"{name} is Active again")
    stitch("delete", "intent/slowly")
    wait_for(lambda: reaches(active, "cx1", ANALYTICS), "cx1 reaches ay1")
    wait_for(lambda: way() == {"shop t1 tc1 t2 insight"}, "the northern way is taken again")


def test_a_node_that_is_drained_is_left_without_losing_a_packet(active: LabRecord) -> None:
    def way() -> list[str]:
        return [" ".join(agreement["status"]["path"]) for agreement in get("agreements", "transit")]

    with load(active):
        said = stitch("node", "drain", "tc1", domain="transit")
        assert said.splitlines()[-1] == "nodes/tc1 is passed by nothing any more"
        assert all("tc2" in each for each in way())
        stitch("node", "undrain", "tc1", domain="transit")
        wait_for(lambda: all("tc1" in each for each in way()), "the northern way is taken again")
        stitch("link", "drain", "t1-tc1", domain="transit")
        assert all("tc2" in each for each in way())
        stitch("link", "undrain", "t1-tc1", domain="transit")
        wait_for(lambda: all("tc1" in each for each in way()), "the northern way is taken once more")
    (node,) = (node for node in get("nodes", "transit") if node["metadata"]["name"] == "tc1")
    assert "drain" not in node["status"]
    assert "hosts of shop/customer-x are attached to it: intents/order-processing" in refused("node", "drain", "se1")
    stitch("node", "undrain", "se1")


def test_a_link_that_has_become_slow_is_left_without_losing_a_packet(active: LabRecord) -> None:
    def way() -> list[str]:
        return [" ".join(agreement["status"]["path"]) for agreement in get("agreements", "transit")]

    def slow() -> bool:
        (link,) = (link for link in get("links", "transit") if link["metadata"]["name"] == "t1-tc1")
        return "delay_in_paths" in link["status"]

    wait_for(lambda: all("tc1" in each for each in way()), "the northern way is taken")
    try:
        with load(active):
            stitch("lab", "link", "t1", "tc1", "set", "delay=17")
            wait_for(lambda: all("tc2" in each for each in way()), "what is measured moves it")
            assert slow()
    finally:
        stitch("lab", "link", "t1", "tc1", "set", "delay=2")
    wait_for(lambda: not slow(), "it is well again")
    assert all("tc2" in each for each in way()), "nothing would be gained"
    stitch("node", "drain", "tc2", domain="transit")
    stitch("node", "undrain", "tc2", domain="transit")
    wait_for(lambda: all("tc1" in each for each in way()), "the northern way is taken again")


def test_an_intent_carries_what_it_allows_and_nothing_else(active: LabRecord) -> None:
    for address in (ANALYTICS, "2001:db8:2::10"):
        wait_for(lambda there=address: reaches(active, "cx1", there), f"cx1 reaches {address}")
    for host, address in (("cx1", WEB), ("cx2", ORDERS), ("cx2", ANALYTICS), ("cz1", ANALYTICS), ("ay1", ORDERS)):
        assert not reaches(active, host, address), (host, address)


def test_an_intent_that_names_only_a_capability_finds_who_has_it_and_the_next_when_the_way_is_cut(
    record: LabRecord, tmp_path: Path
) -> None:
    """Nothing of insight is typed in at the shop: that it has analytics is what insight advertises."""
    who, needs = "shop/customer-x app=order-processing", "latency <= 20ms, encryption wireguard"
    described = f"allow any service with capability analytics, trust >= partner icmp from {who}; require {needs}"
    stitch("intent", described, "--name", "any", "--tenant", "customer-x", "--wait", "300")
    assert reached() == {"insight/analytics/analytics-y": ["10.2.0.10", "2001:db8:2::10"]}
    wait_for(lambda: reaches(record, "cx1", ANALYTICS), "cx1 reaches ay1")
    spare = next(network for network in get("networks") if network["metadata"]["name"] == "shop/firewall")
    network = {name: spare[name] for name in ("apiVersion", "kind", "metadata", "spec")}
    able = {**network, "spec": {**network["spec"], "capabilities": ["analytics"], "tenants": ["customer-x"]}}
    service = {
        "apiVersion": "netstitch/v1",
        "kind": "Service",
        "metadata": {"name": "shop/firewall/spare"},
        "spec": {"addresses": ["10.1.9.2"], "ports": ["icmp"]},
    }
    (tmp_path / "spare.json").write_text(json.dumps([able, service]))
    stitch("apply", "-f", str(tmp_path / "spare.json"))
    assert "shop/firewall/spare: " in stitch("explain", "intent/any")
    stitch("lab", "link", "sg1", "t1", "down")
    wait_for(lambda: reaches(record, "cx1", "10.1.9.2"), "cx1 reaches the spare one")
    assert reached() == {"shop/firewall/spare": ["10.1.9.2"]} and not reaches(record, "cx1", ANALYTICS)
    stitch("lab", "link", "sg1", "t1", "up")
    stitch("delete", "service/shop/firewall/spare")
    wait_for(lambda: reaches(record, "cx1", ANALYTICS), "cx1 reaches ay1 again")
    assert not reaches(record, "cx1", "10.1.9.2")
    stitch("delete", "intent/any")
    (tmp_path / "spare.json").write_text(json.dumps([network]))
    stitch("apply", "-f", str(tmp_path / "spare.json"))


def reached() -> dict[str, list[str]]:
    """Services that the intent `any` leads to, and under which addresses."""
    services: dict[str, list[str]] = {}
    for endpoint in json.loads(stitch("get", "intents", "any", "-o", "json"))["status"]["endpoints"]:
        services.setdefault(endpoint["service"], []).append(endpoint["address"])
    return services


def test_what_passes_is_seen_a_second_later_at_both_ends(active: LabRecord) -> None:
    command = [str(STITCH), "--lab", NAME, "--domain", "shop", "flows", "--watch", "-o", "json"]
    seen: dict[str, dict[str, Any]] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching, load(active):
        assert watching.stdout is not None
        while {"se1", "sg1"} - seen.keys():
            row = json.loads(watching.stdout.readline())
            if row["protocol"] == 1 and min(row["packets"], row["reverse_packets"]) > 10:
                seen[row["node"]] = row
        wait_for(lambda: measured().get("bandwidth_mbps", 0) > 0, "its throughput is measured")
        watching.terminate()
    assert {(row["intent"], row["source_address"], row["destination_address"]) for row in seen.values()} == {
        ("order-processing", ORDERS, ANALYTICS)
    }


def measured() -> dict[str, float]:
    found: dict[str, float] = get("intents")[0]["status"].get("measured", {})
    return found


def test_what_an_intent_permits_and_is_dropped_all_the_same_is_its_own(active: LabRecord) -> None:
    def dropped() -> int:
        rows = json.loads(stitch("drops", "--intent", "order-processing", "-o", "json"))
        return sum(row["packets"] for row in rows if row["node"] == "se1")

    before = dropped()
    lab.execute(active, "cx1", "ip", "route", "flush", "cache")  # it may know the path's MTU
    assert lab.execute(active, "cx1", "ping", "-c", "1", "-W", "1", "-M", "do", "-s", "1472", ANALYTICS).returncode == 1
    assert not reaches(active, "cx2", ANALYTICS), "what nothing permits is nobody's"
    assert dropped() == before + 1


@pytest.mark.parametrize(("address", "asker"), [(ANALYTICS, ORDERS), ("2001:db8:2::10", "2001:db8:1::11")])
def test_who_answers_is_told_that_its_reply_is_too_big_for_the_last_port(
    active: LabRecord, address: str, asker: str
) -> None:
    """The reply is dropped two domains away, at the edge of who asked, and the error goes the way of the request."""
    serve = (
        "import socket; s = socket.create_server(('::', 443), family=socket.AF_INET6, dualstack_ipv6=True); "
        "print('ready', flush=True); c, _ = s.accept(); c.recv(1); c.sendall(bytes(100_000)); c.close()"
    )
    ask = (
        f"import socket; c = socket.create_connection(('{address}', 443)); c.send(b'?'); "
        "print(sum(map(len, iter(lambda: c.recv(65536), b''))))"
    )
    lab.execute(active, "se1", "ip", "link", "set", "cx1", "mtu", "1290")
    server = subprocess.Popen(
        lab.command(active, "ay1", (sys.executable, "-c", serve)), stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        assert lab.execute(active, "cx1", sys.executable, "-c", ask).stdout == "100000\n"
        route = lab.execute(active, "ay1", "ip", "-6" if ":" in asker else "-4", "route", "get", asker).stdout
        assert "mtu 1290" in route
    finally:
        server.kill()
        server.wait()
        lab.execute(active, "se1", "ip", "link", "set", "cx1", "mtu", "1500")


def test_a_scan_is_an_incident_and_its_source_is_isolated_once_somebody_approves(record: LabRecord) -> None:
    scan = (
        "import socket, sys, time\n"
        "for port in range(1, 1000):\n"
        "    trying = socket.socket(); trying.setblocking(False)\n"
        "    trying.connect_ex((sys.argv[1], port)); time.sleep(0.02); trying.close()\n"
    )

    def scans() -> list[dict[str, Any]]:
        spec = {"cause": "scan", "about": f"sources/{WEB}"}
        return [incident for incident in get("incidents") if incident["spec"].items() >= spec.items()]

    wait_for(lambda: reaches(record, "cx2", ORDERS), "cx2 reaches cx1")
    with subprocess.Popen(lab.command(record, "cx2", (sys.executable, "-c", scan, ORDERS))) as scanning:
        wait_for(scans, "the scan is an incident about who scans")
        scanning.terminate()
    [incident] = scans()
    assert incident["status"]["phase"] == "Proposed", incident
    assert reaches(record, "cx2", ORDERS), "what is proposed is not done"
    name = incident["metadata"]["name"]
    assert stitch("incident", "approve", name) == f"intents/quarantine-{name} created\n"
    wait_for(lambda: not reaches(record, "cx2", ORDERS), "cx2 is isolated")
    stitch("delete", f"intent/quarantine-{name}")
    wait_for(lambda: reaches(record, "cx2", ORDERS), "it is undone")


def test_a_host_that_no_network_has_is_heard_and_reaches_others_once_it_is_adopted(
    record: LabRecord, tmp_path: Path
) -> None:
    network = get("network/shop/customer-x")
    (gone,) = (host for host in network["spec"]["attachments"] if host["name"] == "cx2")
    others = [host for host in network["spec"]["attachments"] if host != gone]
    metadata = {key: value for key, value in network["metadata"].items() if key != "revision"}
    without = network | {"metadata": metadata, "spec": network["spec"] | {"attachments": others}}
    del without["status"]
    manifest = tmp_path / "without-cx2.json"
    manifest.write_text(json.dumps(without))
    stitch("apply", "-f", str(manifest))

    def reaches_others() -> bool:
        return any(reaches(record, "cx2", address) for address in (ORDERS, ORDERS_IPV6))

    wait_for(lambda: not reaches_others(), "cx2 reaches nobody any more")

    def candidates() -> list[dict[str, Any]]:
        """cx2 has asked for its neighbours anew."""
        lab.execute(record, "cx2", "ip", "neigh", "flush", "all")
        assert not reaches_others()
        heard = [host for host in get("hosts") if host["status"]["phase"] == "Candidate"]
        return [host for host in heard if host["spec"]["addresses"] == gone["addresses"]]

    wait_for(candidates, "cx2 is heard with both its addresses")
    [host] = candidates()
    assert (host["spec"]["node"], host["spec"]["port"]) == ("se1", gone["port"])
    assert "shop/customer-x" in host["status"]["fits"]
    name = host["metadata"]["name"]
    adopted = stitch("host", "adopt", name, "--network", "shop/customer-x", "--as", "cx2", "--label", "app=web")
    assert adopted == "hosts/shop/customer-x/cx2 adopted\n"
    assert get("network/shop/customer-x")["spec"] == network["spec"]
    wait_for(
        lambda: all(reaches(record, "cx2", address) for address in (ORDERS, ORDERS_IPV6)), "cx2 reaches cx1 by both"
    )
    assert "there is no hosts/" in refused("host", "adopt", name, "--network", "shop/customer-x")


def test_withdrawal_leaves_nothing_on_any_node(record: LabRecord) -> None:
    before = read_back(record)
    stitch("apply", "-f", str(INTENT), "--wait", "300")
    assert all(read_back(record)[node] != before[node] for node in (*GATEWAYS, "se1", "ie1"))
    stitch("delete", "intent/order-processing")
    wait_for(lambda: not reaches(record, "cx1", ANALYTICS), "traffic stops")
    wait_for(lambda: read_back(record) == before, "entries are as before")
    for node in GATEWAYS:
        shown = lab.execute(record, node, "sh", "-c", "ip -o link; ip -6 rule; ip -6 route show table all").stdout
        assert not re.search(r"\b(wg|t|k)-", shown), (node, shown)
    for domain in DOMAINS:
        assert get("agreements", domain) == [] and get("tunnels", domain) == []


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_killed_controller_costs_no_packet_and_writes_nothing_when_it_is_back(active: LabRecord, domain: str) -> None:
    def synced() -> list[dict[str, Any]]:
        return [line for line in log_of(domain)[before:] if line["event"] == "node_synced"]

    nodes = {node.name for node in lab.topology_of(active).nodes if node.domain == domain}
    with load(active) as echoes, trespassers(active):
        kill(domain)
        before = len(log_of(domain))
        echoes.answered()
        lab.restart(NAME, domain)
        wait_for(lambda: {line["node"] for line in synced()} == nodes, "all nodes are compared")
    assert all(int(line["writes"]) == 0 for line in synced()), synced()


LEASE_S = 20
INSIDE = """
apiVersion: netstitch/v1
kind: Intent
metadata: {name: to-firewall, tenant: customer-x}
spec:
  allow: [{from: {network: shop/customer-x, select: {app: web}}, to: shop/firewall, ports: [icmp]}]
  lease: {for: %ds}
"""


def test_leases_end_with_the_controller_dead(record: LabRecord, tmp_path: Path) -> None:
    """One inside a domain, on one node, and one across three."""
    file = tmp_path / "short.yaml"
    file.write_text(INTENT.read_text().replace("30d", f"{LEASE_S}s") + "---" + INSIDE % LEASE_S)
    ways = (("cx2", "10.1.9.2"), ("cx1", ANALYTICS))
    stitch("apply", "-f", str(file))
    try:
        wait_for(lambda: {intent["status"]["phase"] for intent in get("intents")} == {"Active"}, "both are Active")
        renewed_s = time.monotonic()
        for name in ("to-firewall", "order-processing"):
            assert " renewed until " in stitch("intent", "renew", name)
        kill("shop")
        for host, address in ways:
            wait_for(lambda at=(host, address): reaches(record, *at), f"{host} reaches {address}")
        for host, address in ways:
            wait_for(lambda at=(host, address): not reaches(record, *at), f"{host} is cut off")
        assert time.monotonic() - renewed_s > LEASE_S - 2, "it ended before its time"
        wait_for(lambda: reaches(record, "cx1", WEB), "the isolation is over too")
    finally:
        lab.restart(NAME, "shop")
    assert {intent["status"]["phase"] for intent in get("intents")} == {"Expired"}
    assert reaches(record, "cx1", WEB)
    assert not any(reaches(record, *way) for way in ways)
    for name in ("to-firewall", "order-processing"):
        assert "is over since" in refused("intent", "renew", name)
        stitch("delete", f"intent/{name}")


@pytest.mark.parametrize("node", ["se1", "t1", "ie1"])
def test_a_killed_agent_costs_no_packet_and_opens_nothing(active: LabRecord, node: str) -> None:
    domain = next(node_or_link.domain for node_or_link in lab.topology_of(active).nodes if node_or_link.name == node)
    assert domain is not None
    with load(active) as echoes, trespassers(active):
        kill(node)
        before = len(log_of(domain))
        echoes.answered()
        lab.restart(NAME, node)
        wait_for(
            lambda: any(line["event"] == "node_synced" and line["node"] == node for line in log_of(domain)[before:]),
            "the controller has compared it",
        )


def test_what_was_asked_goes_on_and_nothing_else_begins_while_all_agents_die_and_come_back(active: LabRecord) -> None:
    """NETSTITCH_ASKED TCP connections (1,000), and packets that nobody asked for, at 1,000 a second each."""
    nodes = [node.name for node in lab.topology_of(active).nodes]
    unasked = "add rule ip unasked arriving ip saddr {0} {1} counter;"
    rules = [unasked.format(ANALYTICS, f"{ports} {BELOW}") for ports in ("tcp dport <", "udp dport <")]
    rules.append(unasked.format(ANALYTICS, f"icmp type echo-reply icmp id < {BELOW}"))
    table = "add table ip unasked; add chain ip unasked arriving { type filter hook input priority 0; };"
    assert lab.execute(active, "cx1", "nft", table + " ".join(rules)).returncode == 0
    with (
        program(active, "ay1", "serve", "443"),
        program(active, "cx1", "ask", ANALYTICS, "443", str(ASKED), str(RATE)) as asking,
        program(active, "ay1", "intrude", ANALYTICS, ORDERS, str(RATE)) as intruding,
    ):
        assert asking.said == f"open {ASKED}"
        assert asking.answer("a round") == f"answered {ASKED}", "while all are there"
        asking.tell("a round")
        for node in nodes:
            kill(node)
        assert asking.hear() == f"answered {ASKED}", "while they are killed"
        assert asking.answer("a round") == f"answered {ASKED}", "while all are dead"
        asking.tell("a round")
        for node in nodes:
            lab.restart(NAME, node)
        assert asking.hear() == f"answered {ASKED}", "while they come back"
        assert asking.answer("a round") == f"answered {ASKED}", "when all are back"
        sent = int(intruding.end())
    listing = lab.execute(active, "cx1", "nft", "list", "table", "ip", "unasked").stdout
    lab.execute(active, "cx1", "nft", "delete", "table", "ip", "unasked")
    assert listing.count("packets 0 bytes 0") == len(rules), listing
    drops = [load for domain in DOMAINS for load in json.loads(stitch("get", "drops", "-o", "json", domain=domain))]
    refused = {f"{drop['node']} {drop['reason']}": drop["packets"] for drop in drops if drop["node"] in ("se1", "ie1")}
    print(f"{ASKED} asked, {sent} unasked; dropped: {refused}")
    assert sum(refused.values()) >= sent > RATE, refused


class Program:
    """A part of asked_flows.py, in a host."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self._running = running
        self.said = self.hear()

    def hear(self) -> str:
        assert self._running.stdout is not None
        return self._running.stdout.readline().strip()

    def tell(self, line: str) -> None:
        assert self._running.stdin is not None
        print(line, file=self._running.stdin, flush=True)

    def answer(self, line: str) -> str:
        self.tell(line)
        return self.hear()

    def end(self) -> str:
        """The last that it says."""
        return self._running.communicate(timeout=LIMIT_S)[0].strip()


@contextmanager
def program(record: LabRecord, host: str, *arguments: str) -> Iterator[Program]:
    command = lab.command(record, host, (sys.executable, str(Path(__file__).with_name("asked_flows.py")), *arguments))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield Program(running)
        finally:
            running.kill()


def test_tampering_is_found_named_and_repaired(active: LabRecord) -> None:
    """A tenth of se1's entries is removed or changed straight in the maps, past the agent."""
    before = entries_on(active, "se1")
    tampered = tamper(active, "se1")
    assert tampered >= len(before) // 10
    wait_for(lambda: entries_on(active, "se1") == before, "all is repaired")
    wait_for(lambda: reaches(active, "cx1", ANALYTICS), "cx1 reaches ay1")
    deviations_found = deviations("shop", "se1")
    assert {line["what"] for line in deviations_found} >= {"missing", "changed"}, deviations_found
    assert any("order-processing" in line["owner"] for line in deviations_found), deviations_found


def deviations(domain: str, node: str) -> list[dict[str, Any]]:
    return [line for line in log_of(domain) if line["event"] == "deviation_repaired" and line.get("node") == node]


def tamper(record: LabRecord, node: str) -> int:
    """Removes entries from hashes and tries, and changes some of `steer` and `next_hop`, with bpftool. How many."""
    pins = directory_of(NAME) / node / "bpf"
    tampered = 0

    def bpftool(table: str, *command: str) -> str:
        script = f'bpftool -j map "$1" pinned "$(find {pins} -name {table} | head -n 1)" "${{@:2}}"'
        done = lab.execute(record, node, "bash", "-c", script, "bash", *command)
        assert done.returncode == 0, (table, command, done.stderr)
        return done.stdout

    for table in ("flow_policy", "route", "source_group", "destination_group", "local_sid", "source_guard"):
        rows = json.loads(bpftool(table, "dump"))
        for row in random.Random(1).sample(rows, len(rows) // 5 + 1):
            bpftool(table, "delete", "key", "hex", *(octet[2:] for octet in row["key"]))
            tampered += 1
    for table in ("steer", "next_hop"):
        used = [row for row in json.loads(bpftool(table, "dump")) if any(int(octet, 16) for octet in row["value"][:4])]
        row = used[-1]
        value = [int(octet, 16) for octet in row["value"]]
        first = LAYOUT.by_name[table].by_number[number(bytes(value), ACTION)].params[0]
        value[first.offset] ^= 1
        other = [f"{octet:02x}" for octet in value]
        bpftool(table, "update", "key", "hex", *(octet[2:] for octet in row["key"]), "value", "hex", *other)
        tampered += 1
    return tampered


def test_an_unreachable_node_holds_up_nobody_and_converges_when_it_is_back(record: LabRecord) -> None:
    kill("sg1")
    try:
        wait_for(lambda: not is_reachable("shop", "sg1"), "the controller knows that sg1 is gone")
        stitch("apply", "-f", str(INTENT))
        wait_for(lambda: phase() == "Installing", "the intent is Installing")
        assert "sg1 unreachable" in json.dumps(get("intents")[0]["status"]["conditions"])
    finally:
        lab.restart(NAME, "sg1")
    try:
        wait_for(lambda: phase() == "Active", "Active when sg1 is back")
        wait_for(lambda: reaches(record, "cx1", ANALYTICS), "cx1 reaches ay1")
    finally:
        stitch("delete", "intent/order-processing")


LAB = """apiVersion: netstitch/v1
kind: Network
metadata: {name: shop/lab}
spec:
  prefixes: [10.7.0.0/24]
  gateways: [10.7.0.1]
  attachments:
    - {name: l1, node: se1, port: 77, addresses: [10.7.0.10]}
"""


def test_a_port_that_is_not_there_holds_up_its_network_alone(record: LabRecord, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(LAB)
    said = refused("apply", "-f", str(file), status=2)
    assert said.startswith(f"{file}:8:35: spec.attachments[0].port: se1 has no port 77; its agent has "), said
    kill("se1")
    try:
        wait_for(lambda: not is_reachable("shop", "se1"), "the controller knows that se1 is gone")
        said = refused("apply", "-f", str(file), "--wait", "0.5")
        assert "networks/shop/lab is not Active after 0.5 s: Installing: " in said and "node se1 unreachable" in said
    finally:
        lab.restart(NAME, "se1")
    wait_for(lambda: is_reachable("shop", "se1"), "se1 has all that it can have")
    said = refused("apply", "-f", str(file), "--wait", "0.5")
    assert "Installing: host l1: se1 has no port 77" in said and "unreachable" not in said
    stitch("apply", "-f", str(INTENT), "--wait", "300")
    stitch("delete", "intent/order-processing", "network/shop/lab")


def phase(name: str = "order-processing") -> str:
    return next((str(each["status"]["phase"]) for each in get("intents") if each["metadata"]["name"] == name), "none")


def is_reachable(domain: str, node: str) -> bool:
    return any(
        resource["metadata"]["name"] == node and resource["status"]["phase"] == "Ready"
        for resource in get("nodes", domain)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kind: Intent\nspec: {isolat: 1}\n", "isolat"),
        (
            "apiVersion: netstitch/v1\nkind: Intent\nmetadata: {name: a, tenant: t}\n"
            "spec:\n  allow: [{from: {network: shop/customer-x}, to: insight/no/such}]\n",
            "insight/no",
        ),
        ("{" * 5_000_000 + "}" * 5_000_000, ""),
    ],
    ids=["unknown field", "unknown service", "10 MB of garbage"],
)
def test_a_wrong_manifest_is_refused_with_its_place(
    record: LabRecord, tmp_path: Path, text: str, expected: str
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    command = [str(STITCH), "--lab", NAME, "apply", "-f", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert re.search(rf"{re.escape(str(file))}:\d+:\d+: ", done.stderr), done.stderr
    assert expected in done.stderr
    assert get("intents") == []
