"""What the edges of a network answer for, though it is in another network."""

import pytest

from controller.fulfillment import numbering
from controller.fulfillment.acl import Rule
from controller.fulfillment.networks import on_link
from controller.fulfillment.numbering import prefix
from controller.model.inventory import Attachment, Network
from dataplane.reasons import DropReason

VRF = 3
NETWORK = Network(
    name="shop/n",
    prefixes=("10.1.0.0/16", "2001:db8::/32"),
    attachments=(
        Attachment(name="here", node="e1", port=11, addresses=("10.1.0.11",)),
        Attachment(name="there", node="e2", port=11, addresses=("10.1.0.12", "2001:db8::12")),
    ),
)


def rule(*destination: str, owner: str = "intents/i", drop: DropReason | None = None) -> Rule:
    return Rule(
        policy_class=4,
        source=("10.1.0.11/32",),
        destination=destination,
        forwarding_class=0 if drop is not None else 16,
        drop=drop,
        priority=1,
        owner=owner,
    )


@pytest.mark.parametrize(
    ("rules", "routes"),
    [
        ([], {}),
        ([rule("10.2.0.10/32", "2001:db9::10/128")], {}),
        (
            [rule("10.1.9.10/32", "2001:db8:2::10/128", "10.2.0.10/32")],
            {"10.1.9.10/32": "i", "2001:db8:2::10/128": "i"},
        ),
        ([rule("10.1.9.0/24")], {"10.1.9.0/24": "i"}),
        ([rule("10.0.0.0/8")], {"10.1.0.0/16": "i"}),
        ([rule("10.1.0.11/32", "10.1.0.12/32", "2001:db8::12/128")], {}),
        ([rule("10.1.9.10/32", drop=DropReason.ISOLATED)], {}),
        ([rule("10.1.9.10/32", owner=f"intents/{owner}") for owner in "ihj"], {"10.1.9.10/32": "h"}),
    ],
    ids=[
        "nothing",
        "not on the link",
        "on the link",
        "a network inside",
        "a network around",
        "own hosts",
        "dropped",
        "several intents",
    ],
)
def test_there_are_routes_to_what_is_on_the_link_in_another_network(rules: list[Rule], routes: dict[str, str]) -> None:
    ranks = {(place, "", 0): rule for place, rule in enumerate(rules)}
    led_to = on_link(NETWORK).changed({}, ranks)
    assert led_to.changed(ranks, {}) == on_link(NETWORK)
    made = led_to.entries(VRF)
    routes_made = {tuple(match.value for match in route.match): route for route in made if route.table == "route"}
    assert {key: route.owner for key, route in routes_made.items()} == {
        (VRF, prefix(text)[0]): f"intents/{owner}" for text, owner in routes.items()
    }
    lengths = {route.match[1].prefix_length for route in routes_made.values()}
    assert lengths == {prefix(text)[1] for text in routes}
    hops = [(hop.match[0].value, dict(hop.params)["port"]) for hop in made if hop.table == "next_hop"]
    assert hops == ([(numbering.BEHIND_ANOTHER_EDGE, 0)] if routes else [])
    assert len(made) == len(routes_made) + len(hops)
