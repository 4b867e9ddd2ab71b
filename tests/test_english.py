"""English that proposes a sentence: each shape, what may follow it, and what is not understood."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.language.english import Names, NoEnglish, is_shaped, propose
from controller.language.fault import ManifestInvalid
from controller.language.sentence import parse_sentence

NAMES = Names(
    networks={
        "shop/customer-x": {("app", "order-processing"), ("app", "web"), ("tier", "web")},
        "shop/customer-z": set(),
        "insight/analytics": set(),
        "insight/archive": set(),
        "moon/archive": set(),
    },
    services=["insight/analytics/analytics-y", "insight/archive/archive-z", "shop/customer-x/firewall"],
    domains=["shop", "transit", "insight"],
)
X, Y = "shop/customer-x app=order-processing", "insight/analytics/analytics-y"
ISOLATED = f"isolate {X}; allow {Y}"
SHAPES = {
    "all traffic related to customer-x order-processing must be isolated but requires access to analytics-y": ISOLATED,
    "Customer-X order-processing must be isolated.": f"isolate {X}",
    "keep customer-x order-processing away from everything except analytics-y": ISOLATED,
    "isolate customer-x order-processing but allow analytics-y": ISOLATED,
    "customer-x order-processing may only reach analytics-y": ISOLATED,
    "order-processing needs access to analytics-y": f"allow {Y} from {X}",
    "customer-z must be able to reach analytics-y": f"allow {Y} from shop/customer-z",
    "customer-z can talk to the analytics network": "allow insight/analytics from shop/customer-z",
    "allow customer-x order-processing to reach analytics-y": f"allow {Y} from {X}",
    "give customer-z access to archive-z": "allow insight/archive/archive-z from shop/customer-z",
    "let shop/customer-z use analytics-y": f"allow {Y} from shop/customer-z",
}
EXTRAS = {
    "within 20 ms": "require latency <= 20ms",
    "under 2 seconds": "require latency <= 2s",
    "encrypted": "require encryption wireguard",
    "end-to-end encrypted": "require encryption wireguard-end-to-end",
    "with at least 50 Mbps": "require bandwidth >= 50Mbps",
    "with less than 0.1% loss": "require loss <= 0.1%",
    "over trusted networks only": "require trust >= partner",
    "avoiding transit": "require avoid domains transit",
    "through the firewall": "via firewall",
    "for 2 weeks": "for 14d",
    "for 30 days": "for 30d",
}


@pytest.mark.parametrize(("text", "sentence"), SHAPES.items())
def test_each_shape_proposes_its_sentence(text: str, sentence: str) -> None:
    assert is_shaped(text)
    assert propose(text, NAMES) == sentence
    parse_sentence(sentence, name="n", tenant="t")


@pytest.mark.parametrize(("extra", "clause"), EXTRAS.items())
@pytest.mark.parametrize("link", [" ", ", ", " and "])
def test_what_may_follow_a_shape(extra: str, clause: str, link: str) -> None:
    sentence = propose(f"customer-z needs access to analytics-y{link}{extra}", NAMES)
    assert sentence == f"allow {Y} from shop/customer-z; {clause}"
    parse_sentence(sentence, name="n", tenant="t")


def test_ports_and_several_needs() -> None:
    text = "customer-z needs access to analytics-y on tcp/443 and icmp, encrypted, within 20 ms for 30 days"
    clauses = "require latency <= 20ms, encryption wireguard; for 30d"
    assert propose(text, NAMES) == f"allow {Y} tcp/443 icmp from shop/customer-z; {clauses}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("customer-x needs access to analytics-x", "1:28: unknown service or network 'analytics-x'; did you mean"),
        ("customer-y must be isolated", "1:1: unknown network 'customer-y'; did you mean 'customer-"),
        ("customer-x webb must be isolated", "1:12: unknown label of shop/customer-x 'webb'; did you mean 'web'?"),
        ("customer-x web must be isolated", "'web' may be app=web or tier=web of shop/customer-x"),
        ("customer-z needs access to archive", "'archive' may be insight/archive or moon/archive"),
        ("customer-z must not be isolated", "unknown label of shop/customer-z 'must'"),
        ("customer-z does not need access to analytics-y", "unknown"),
        ("customer-z needs access to analytics-y, not encrypted", "unknown service or network"),
    ],
)
def test_names_that_are_not_known_are_never_guessed(text: str, message: str) -> None:
    with pytest.raises(ManifestInvalid) as caught:
        propose(text, NAMES)
    assert message in str(caught.value)


@given(
    st.lists(st.sampled_from(" ".join((*SHAPES, *EXTRAS, "not never no only ,")).split()), max_size=30).map(" ".join)
)
@settings(max_examples=300, deadline=None)
def test_any_words_propose_a_sentence_or_nothing(text: str) -> None:
    try:
        parse_sentence(propose(text, NAMES), name="n", tenant="t")
    except (NoEnglish, ManifestInvalid):
        pass
