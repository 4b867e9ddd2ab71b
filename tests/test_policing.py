"""A domain's policy for the offers of others is read again: what it no longer allows ends, and the rest stays."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from controller.language.fault import ManifestInvalid
from controller.language.policy import POLICY, parse_policy, print_policy
from controller.model.intent import Ports
from controller.model.policy import AcceptRule, Policy, PrefixRange, TransitRule
from controller.model.told import Told
from tests.packet_walk import Walk, tcp
from tests.simulator import ORDER_PROCESSING, World

CX1, AY1 = "10.1.0.11", "10.2.0.10"
Change = Callable[[Policy], Policy]


@pytest.fixture
def world() -> World:
    """With an intent of shop that transit carries and insight accepts."""
    world = World()
    world.start()
    world.apply("shop", ORDER_PROCESSING)
    world.run(3.0)
    assert world.phase("shop", "order-processing") == "Active"
    return world


def shorter_lease(policy: Policy) -> Policy:
    return replace(policy, transit=tuple(replace(rule, max_lease_s=60) for rule in policy.transit))


def fewer_ports(policy: Policy) -> Policy:
    only = (Ports(protocol="tcp", first=443, last=443),)
    return replace(policy, accept=tuple(replace(rule, ports=only) for rule in policy.accept))


@pytest.mark.parametrize(
    ("domain", "change", "why"),
    [
        (
            "transit",
            lambda policy: replace(policy, transit=()),
            "no rule of transit carries traffic from shop to insight",
        ),
        ("transit", shorter_lease, "transit rule 1 of transit carries from shop to insight for at most 60 s"),
        ("insight", lambda policy: Policy(), "no rule of insight accepts shop/customer-x"),
        ("insight", fewer_ports, "no rule of insight accepts shop/customer-x"),
        (
            "insight",
            lambda policy: replace(policy, max_agreements=0),
            "insight has 0 agreements with transit, which is",
        ),
        ("transit", lambda policy: replace(policy, max_share=0), "shop would have "),
    ],
    ids=["no transit", "shorter leases", "nothing", "fewer ports", "fewer agreements", "a smaller share"],
)
def test_what_a_new_policy_does_not_allow_ends(world: World, domain: str, change: Change, why: str) -> None:
    policy = change(world.controllers[domain].policy)
    before = world.controllers[domain].state
    told = world.load_policy(domain, policy, dry_run=True)
    assert told is not None and told.results[0] == f"policies/{domain} changed"
    assert told.results[1].startswith("agreement ") and why in told.results[1]
    assert world.controllers[domain].state.stitches == before.stitches
    assert world.controllers[domain].state.policy == before.policy
    done = world.load_policy(domain, policy)
    assert done is not None and done.results == told.results
    world.run(1.0)
    assert not Walk(world).send("cx1", tcp(CX1, AY1, 443)).delivered
    (said,) = world.get("shop", "intents", "order-processing").status["conditions"]
    assert "transit has withdrawn it: " in said["reason"], "told at once, not at the next try"
    world.run(5.0)
    assert not world.controllers[domain].state.stitches
    status = world.get("shop", "intents", "order-processing").status
    told_neighbour = Told.SHARE if why == "shop would have " or "agreements" in why else Told.POLICY
    assert status["phase"] == "Refused" and told_neighbour in status["conditions"][0]["reason"]


def test_what_a_new_policy_still_allows_stays_as_it_is(world: World) -> None:
    before = {name: controller.state.stitches for name, controller in world.controllers.items()}
    writes = {name: node.writes for name, node in world.nodes.items()}
    transit, insight = (world.controllers[name].policy for name in ("transit", "insight"))
    wider = AcceptRule(origin="*", source="*", destination="*")
    for domain, policy, what in (
        ("transit", transit, "unchanged"),
        ("transit", replace(transit, transit=transit.transit[:1], max_share=40), "changed"),
        ("insight", replace(insight, accept=(wider,), lease_s=60), "changed"),
        ("shop", Policy(lease_s=90), "changed"),
    ):
        done = world.load_policy(domain, policy)
        assert done is not None and done.results == (f"policies/{domain} {what}",)
    world.run(5.0)
    assert {name: controller.state.stitches for name, controller in world.controllers.items()} == before
    assert {name: node.writes for name, node in world.nodes.items()} == writes


def test_the_youngest_go_where_fewer_are_allowed(world: World) -> None:
    web = ORDER_PROCESSING.replace("name: order-processing", "name: web").replace("app: order-processing", "app: web")
    world.apply("shop", web)
    world.run(3.0)
    done = world.load_policy("transit", replace(world.controllers["transit"].policy, max_agreements=1))
    assert done is not None and len(done.results) == 2 and ":web:" in done.results[1]
    world.run(3.0)
    assert world.phase("shop", "order-processing") == "Active"
    assert world.phase("shop", "web") == "Refused"


def test_what_a_new_policy_allows_is_had_at_the_next_try(world: World) -> None:
    allowed = world.controllers["insight"].policy
    world.load_policy("insight", Policy())
    world.run(3.0)
    assert world.phase("shop", "order-processing") == "Refused"
    world.load_policy("insight", allowed)
    world.run(60.0)
    assert world.phase("shop", "order-processing") == "Active"
    world.check_settled()


def test_the_policy_in_force_is_shown_as_its_file_could_have_it(world: World) -> None:
    world.load_policy("transit", world.controllers["transit"].policy)
    (shown,) = world.resources("transit", "policies")
    assert shown.metadata == {"name": "transit"}
    assert shown.status == {"loaded": {"by": "stitchd", "file": "policy.yaml", "at_s": int(world.now_s)}}
    assert POLICY.read(shown.spec, (), flaws := []) == world.controllers["transit"].policy and not flaws
    ranges = (
        PrefixRange(prefix="10.0.0.0/8", least=24, most=32),
        PrefixRange(prefix="2001:db8::/32", least=32, most=32),
    )
    policy = Policy(
        accept=(
            AcceptRule(
                origin="a", source="a/*", destination="b/c/d", direct=True, dscp=(46, 34), prefixes=ranges, max_flows=3
            ),
            AcceptRule(origin="*", source="*", destination="*", ports=(Ports(protocol="udp", first=1, last=9),)),
        ),
        transit=(TransitRule(origin="a", destination="b", max_lease_s=60, dscp=(), prefixes=ranges, max_prefixes=9),),
        max_agreements=3,
        max_share=7,
        lease_s=90,
    )
    assert (POLICY.read(print_policy(policy), (), flaws), flaws) == (policy, [])
    assert parse_policy("", "policy.yaml") == Policy()


@pytest.mark.parametrize(
    ("written", "lengths"),
    [
        ("{prefix: 10.0.0.0/8}", (8, 8)),
        ("{prefix: 10.0.0.0/8, ge: 24}", (24, 32)),
        ("{prefix: 10.0.0.0/8, le: 24}", (8, 24)),
        ("{prefix: 2001:db8::/32, ge: 48, le: 64}", (48, 64)),
        ("{prefix: 10.0.0.0/8, ge: 4}", None),
        ("{prefix: 10.0.0.0/8, ge: 24, le: 16}", None),
        ("{prefix: 10.0.0.0/8, le: 33}", None),
        ("{prefix: 10.0.0.1/8}", None),
        ("{prefix: '2001:DB8::/32'}", None),
    ],
)
def test_an_entry_of_a_prefix_list_is_read_as_routers_do(written: str, lengths: tuple[int, int] | None) -> None:
    text = f"accept: [{{from: a, source: a/*, to: b/*, prefixes: [{written}]}}]"
    if lengths is None:
        with pytest.raises(ManifestInvalid, match="prefixes"):
            parse_policy(text, "policy.yaml")
        return
    (rule,) = parse_policy(text, "policy.yaml").accept
    assert [(prefix.least, prefix.most) for prefix in rule.prefixes] == [lengths]
