"""Intents that can be written, with all their fields."""

import ipaddress

from hypothesis import strategies as st

from controller.model.intent import (
    Allow,
    AnyService,
    Avoid,
    Disjoint,
    Encryption,
    Intent,
    IntentTest,
    Level,
    Ports,
    Prefer,
    Remediation,
    Require,
    Selector,
    Trust,
)

KEYWORDS = [
    "isolate",
    "allow",
    "via",
    "require",
    "prefer",
    "on",
    "for",
    "until",
    "test",
    "to",
    "from",
    "deny",
    "any",
    "service",
    "in",
    "with",
    "capability",
    "trust",
]
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True) | st.sampled_from([*KEYWORDS, "a.b", "30d"])
VALUES = NAMES | st.text(st.characters(categories=("L", "N", "P", "S")) | st.just(" "), min_size=1, max_size=12)
LABELS = st.dictionaries(NAMES, VALUES.filter(str.isprintable), max_size=3).map(
    lambda labels: tuple(sorted(labels.items()))
)
RANGES = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(sorted)
PORTS = st.sampled_from([Ports(protocol="icmp"), Ports(protocol="tcp"), Ports(protocol="udp")]) | st.builds(
    lambda protocol, pair: Ports(protocol=protocol, first=pair[0], last=pair[1]),
    st.sampled_from(["tcp", "udp"]),
    RANGES,
)
PORT_LISTS = st.lists(PORTS, max_size=3).map(tuple)


def _prefixes(version: type[ipaddress.IPv4Network] | type[ipaddress.IPv6Network], bits: int) -> st.SearchStrategy[str]:
    pairs = st.tuples(st.integers(0, 2**bits - 1), st.integers(0, bits))
    return pairs.map(lambda pair: str(version(pair, strict=False)))


PREFIXES = _prefixes(ipaddress.IPv4Network, 32) | _prefixes(ipaddress.IPv6Network, 128)
NETWORK_NAMES = st.builds("{}/{}".format, NAMES, NAMES)
SERVICE_NAMES = st.builds("{}/{}/{}".format, NAMES, NAMES, NAMES)
SELECTORS = st.builds(
    Selector, network=NETWORK_NAMES, labels=LABELS, prefixes=st.lists(PREFIXES, max_size=2).map(tuple)
)
CAPABILITIES = st.lists(NAMES | st.builds("{}={}".format, NAMES, NAMES), max_size=2, unique=True).map(
    lambda names: tuple(sorted(names))
)
ANY_SERVICES = st.builds(
    AnyService,
    service=st.just("") | NAMES.filter(lambda name: name not in ("in", "with")),
    labels=LABELS,
    capabilities=CAPABILITIES,
    trust_min=st.none() | st.sampled_from(Trust),
).filter(lambda asked: asked.service or asked.labels or asked.capabilities)
REQUIRES = st.builds(
    Require,
    latency_us_max=st.none() | st.integers(1, 60_000_000),
    bandwidth_bps_min=st.none() | st.integers(1, 10**13) | st.integers(1, 10_000).map(lambda value: value * 10**9),
    loss_ppm_max=st.none() | st.integers(0, 10**6),
    encryption=st.sampled_from(Encryption),
    disjoint=st.none() | st.sampled_from(Disjoint),
    trust_min=st.none() | st.sampled_from(Trust),
    avoid=st.builds(
        Avoid,
        domains=st.lists(NAMES, max_size=2).map(tuple),
        labels=LABELS,
        nodes=st.lists(NAMES, max_size=2).map(tuple),
    ),
    include_nodes=st.lists(NAMES, max_size=2).map(tuple),
)
LEASES = st.one_of(
    st.just({}),
    st.integers(1, 3650 * 86400).map(lambda seconds: {"lease_s": seconds}),
    st.integers(0, 4_000_000_000).map(lambda seconds: {"lease_until_s": seconds}),
)
TESTS = st.builds(
    IntentTest, allowed=st.booleans(), source=SELECTORS, to=NETWORK_NAMES | SERVICE_NAMES, ports=PORT_LISTS
)


@st.composite
def intents(draw: st.DrawFn) -> Intent:
    isolate = draw(st.none() | SELECTORS)
    sources = SELECTORS if isolate is None else st.sampled_from([None, isolate])
    allows = st.builds(Allow, to=NETWORK_NAMES | SERVICE_NAMES, ports=PORT_LISTS, source=sources) | st.builds(
        Allow, any=ANY_SERVICES, ports=PORT_LISTS, source=sources
    )
    allowed = draw(st.lists(allows, min_size=1 if isolate is None else 0, max_size=3))
    return Intent(
        name=draw(NAMES),
        tenant=draw(NAMES),
        isolate=isolate,
        allow=tuple(allowed),
        via=tuple(draw(st.lists(NAMES | SERVICE_NAMES, max_size=2))),
        require=draw(REQUIRES),
        prefer=draw(st.builds(Prefer, cost=st.none() | st.just(Level.LOW), latency=st.none() | st.just(Level.LOW))),
        on_violation=draw(st.sampled_from(["degrade", "stop"])),
        on_service_down=draw(st.sampled_from(["stop", "bypass"])),
        priority=draw(st.integers(1, 1000)),
        service_class=draw(st.just("") | NAMES),
        overrides=tuple(draw(st.lists(NAMES, max_size=2))),
        suspends=tuple(draw(st.lists(NAMES, max_size=2))) if isolate is not None and not allowed else (),
        remediation=draw(st.sampled_from(Remediation)),
        tests=tuple(draw(st.lists(TESTS, max_size=2))),
        labels=draw(st.just(()) | st.just((("app", "shop"), ("tier", "1")))),
        **draw(LEASES),
    )


INTENTS = intents()
