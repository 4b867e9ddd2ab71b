"""Agreements that somebody ends, and keys that are pinned no more: both sides know, the origin's intent says why, and
nobody is asked again and again."""

import base64

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from controller.model.agreement import Greeting, Withdrawal
from controller.model.event import Applied, EndAgreement, LoadPolicy, PeerMet, Reply
from controller.model.stitch import Stage
from controller.model.told import Told
from tests.offers import said
from tests.simulator import ORDER_PROCESSING, SimulatedKeys, World

WIDE = ORDER_PROCESSING.replace("max: 20", "max: 60").replace(", trust: {min: partner}", "")
"""Either way does: through transit, or over the internet."""


def agreed(text: str = ORDER_PROCESSING) -> World:
    world = World()
    world.start()
    world.apply("shop", text)
    world.run(2.0)
    assert world.phase("shop", "order-processing") == "Active"
    return world


def end(world: World, domain: str, hold_off_s: int = 900, name: str = "") -> Reply:
    controller = world.controllers[domain]
    name = name or next(iter(controller.state.agreements))
    request = f"end-{world.now_s}"
    event = EndAgreement(request_id=request, name=name, reason="maintenance", hold_off_s=hold_off_s)
    controller.event(event, controller.life)
    return controller.replies[request]


def status(world: World) -> tuple[str, str]:
    shown = world.get("shop", "intents", "order-processing").status
    return shown["phase"], "; ".join(condition["reason"] for condition in shown["conditions"])


@pytest.mark.parametrize("domain", ["transit", "insight"])
def test_a_carrier_ends_an_agreement_at_once_on_both_sides_and_the_origin_says_who_and_why(domain: str) -> None:
    world = agreed()
    assert end(world, domain).results[0].endswith(" ended")
    world.run(0.1)
    assert not any(node.host.tunnels for node in world.nodes.values())
    assert all(isinstance(message, Withdrawal) and message.ended_by == domain for message in said(world, "withdrawal"))
    phase, reason = status(world)
    assert phase == "Refused"
    assert f"refused by {domain}: {domain} has ended it: maintenance; not again before 20" in reason
    world.check_settled()


def test_who_has_ended_it_is_not_asked_again_before_the_hold_off_is_over() -> None:
    world = agreed()
    end(world, "transit", 600)
    world.wiretap.clear()
    world.run(590.0)
    assert not world.heard("offer")
    world.run(20.0)
    assert len(world.heard("offer", "shop")) == 1
    assert status(world)[0] == "Active"


def test_another_way_is_taken_at_once_and_the_first_not_asked() -> None:
    world = agreed(WIDE)
    assert world.get("shop", "intents", "order-processing").status["path"] == ["se1", "sg1", "transit", "insight"]
    end(world, "transit")
    world.run(3.0)
    shown = world.get("shop", "intents", "order-processing").status
    assert (shown["phase"], shown["path"]) == ("Active", ["se1", "sg1", "insight"])
    assert not world.controllers["transit"].state.stitches


def test_the_destination_is_not_asked_by_any_way() -> None:
    """Each way is tried once: only the destination knows that it would refuse there too."""
    world = agreed(WIDE)
    end(world, "insight", 600)
    world.wiretap.clear()
    world.run(590.0)
    assert len(world.heard("offer", receiver="insight")) == 1
    assert status(world)[0] == "Refused"
    world.run(20.0)
    assert status(world)[0] == "Active"


def test_without_a_hold_off_it_may_be_offered_again_at_once() -> None:
    world = agreed()
    end(world, "insight", 0)
    world.run(10.0)
    assert status(world)[0] == "Active"


def test_hold_off_concerns_one_intent_and_outlasts_a_restart() -> None:
    world = agreed()
    end(world, "transit", 600)
    for controller in world.controllers.values():
        controller.crash()
        controller.start()
    other = ORDER_PROCESSING.replace("name: order-processing", "name: web")
    world.run(30.0)
    assert status(world)[0] == "Refused"
    world.delete("shop", "order-processing")
    world.apply("shop", other)
    world.run(3.0)
    assert world.phase("shop", "web") == "Active"


def test_applying_the_neighbours_domain_again_asks_it_again_and_another_policy_ends_its_hold_off() -> None:
    world = agreed()
    end(world, "transit", 600)
    transit = world.controllers["transit"]
    policy = replace(transit.state.policy, max_agreements=255)  # its operator thinks better of it
    transit.event(LoadPolicy(request_id="policy", policy=policy, file="policy.yaml"), transit.life)
    world.run(30.0)
    assert status(world)[0] == "Refused"
    world.apply("shop", world.inventories["shop"])
    world.run(3.0)
    assert status(world)[0] == "Active"


def test_what_is_not_there_or_ends_already_is_not_ended() -> None:
    world = agreed()
    assert end(world, "shop", name="shop:nothing:1").missing == (0,)
    id = next(iter(world.controllers["shop"].state.agreements))
    world.delete("shop", "order-processing")
    state = world.controllers["shop"].state
    assert [stitch.stage for stitch in state.stitches.values()] == [Stage.REMOVING]
    assert end(world, "shop", name=id).conflict == f"agreement {id} is ending already"


def test_origin_may_end_its_own_agreement_too() -> None:
    world = agreed(WIDE)
    end(world, "shop")
    world.run(3.0)
    shown = world.get("shop", "intents", "order-processing").status
    assert (shown["phase"], shown["path"]) == ("Active", ["se1", "sg1", "insight"])


def test_a_domain_can_be_deleted_by_what_the_refusals_say() -> None:
    world = agreed()
    (id,) = world.controllers["insight"].state.stitches
    refused = world.delete("insight", "shop", "Domain")
    assert refused is not None
    assert f"`stitch agreement end {id} --reason TEXT` ends agreements" in refused.conflict
    assert f"is in use by agreement {id}" in refused.conflict
    end(world, "insight")
    for name, kind in (("sg1-ig1", "Link"), ("shop/customer-x", "Network"), ("shop", "Domain")):
        deleted = world.delete("insight", name, kind)
        assert deleted is not None and deleted.results == (f"{kind.lower()}s/{name} deleted",), deleted
    world.run(30.0)
    world.check_settled()


# ---- keys


def pin(world: World, domain: str, other: str, key: str) -> None:
    """Domain `domain` pins another key of `other`."""
    pinned = world.controllers[domain].state.inventory.domains[other]
    controller = world.controllers[domain]
    content = msgspec.json.encode(replace(pinned, key=key))
    assert world.submit(domain, Applied(kind="Domain", content=content)) is not None
    assert controller.state.inventory.domains[other].key == key


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("sid_block: '5f00:1::/32'", "5f00:1::/32 overlaps with 5f00:1::/32 of shop"),
        ("sid_block: '5f00:2:8000::/33'", "5f00:2:8000::/33 overlaps with 5f00:2::/32 of transit"),
        ("sid_block: '5f00::/20'", "5f00::/20 overlaps with 5f00:3::/32 of insight"),
        ("key: {transit}", "it is the key of transit: who has it could speak for both"),
    ],
)
def test_a_domain_that_could_be_taken_for_another_is_refused(spec: str, said: str) -> None:
    world = World()
    world.start()
    keys = {name: controller.keys.public for name, controller in world.controllers.items()}
    key = "" if "key" in spec else f"key: {OtherKeys('new').public}, "
    manifest = "apiVersion: netstitch/v1\nkind: Domain\nmetadata: {name: new}\nspec: {SPEC}\n"
    reply = world.apply("shop", manifest.replace("{SPEC}", f"{{{key}{spec.format(**keys)}}}"))
    assert reply is not None and said in [problem.message for problem in reply.problems], reply


class OtherKeys(SimulatedKeys):
    """Of the same domain, after it has made new ones."""

    def __init__(self, domain: str) -> None:
        super().__init__(domain)
        self._private = Ed25519PrivateKey.from_private_bytes(f"new {domain}".encode().ljust(32, b".")[:32])
        self.public = base64.b64encode(self._private.public_key().public_bytes_raw()).decode()


@pytest.mark.parametrize("domain", ["transit", "insight"])
def test_what_stands_on_a_key_that_is_pinned_no_more_ends_and_comes_back_with_the_new_one(domain: str) -> None:
    world = agreed()
    new = OtherKeys("shop")
    pin(world, domain, "shop", new.public)
    world.run(0.1)
    assert not world.controllers[domain].state.stitches
    assert not any(node.host.tunnels for node in world.nodes.values())
    world.run(20.0)
    phase, reason = status(world)
    told = Told.SIGNATURE if domain == "transit" else Told.KEY
    assert phase == "Refused" and told in reason, "shop still signs with the old key"
    for other in {"transit", "insight"} - {domain}:
        pin(world, other, "shop", new.public)
    world.controllers["shop"].keys = new
    world.run(70.0)
    assert status(world)[0] == "Active"


def test_a_changed_certificate_or_endpoint_ends_nothing() -> None:
    world = agreed()
    stitches = dict(world.stitches())
    world.apply("insight", world.inventories["insight"].replace("127.0.0.1:7000", "127.0.0.1:7001"))
    world.run(3.0)
    assert dict(world.stitches()) == stitches


# ---- peers that do not take what we say


VERSION_1 = "transit: protocol version 1"


def deaf(text: str) -> World:
    """A world where what shop says to transit is refused for good."""
    world = World()
    world.start()
    world.refusing["shop", "transit"] = VERSION_1
    world.apply("shop", text)
    world.run(3.0)
    return world


def met(world: World, instance: str) -> None:
    shop = world.controllers["shop"]
    shop.event(PeerMet(peer="transit", greeting=Greeting(versions=(2,), instance=instance)), shop.life)


def test_who_refuses_for_good_is_asked_once_and_again_when_it_is_another() -> None:
    world = deaf(ORDER_PROCESSING)
    phase, reason = status(world)
    assert phase == "Refused" and f"refused by transit: {VERSION_1}" in reason
    world.run(600.0)
    assert len(world.heard("offer", "shop")) == 1
    met(world, "first")
    world.run(5.0)
    assert len(world.heard("offer", "shop")) == 2
    met(world, "first")
    world.run(300.0)
    assert len(world.heard("offer", "shop")) == 2, "a new connection with the same controller changes nothing"
    world.refusing.clear()
    met(world, "upgraded")
    world.run(5.0)
    assert status(world)[0] == "Active"
    world.check_settled()


def test_another_way_is_taken_around_who_refuses_for_good() -> None:
    world = deaf(WIDE)
    shown = world.get("shop", "intents", "order-processing").status
    assert (shown["phase"], shown["path"]) == ("Active", ["se1", "sg1", "insight"])
    assert len(world.heard("offer", "shop", "transit")) == 1


def test_a_withdrawal_that_is_refused_for_good_is_kept_and_said_when_something_has_changed() -> None:
    world = agreed()
    world.refusing["shop", "transit"] = "no"
    world.delete("shop", "order-processing")
    world.run(300.0)
    assert len(world.heard("withdrawal", "shop")) == 1
    assert [name.partition(":")[0] for name in world.controllers["shop"].state.outbox] == ["withdrawal"]
    assert world.get("shop", "domains", "transit").status["reason"] == "no"
    world.refusing.clear()
    met(world, "upgraded")
    world.run(3.0)
    assert world.stitches() == []
    world.check_settled()
