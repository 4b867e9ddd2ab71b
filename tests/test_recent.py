"""What others have said is kept as it was read, as far as it is not too much."""

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest

from controller.model.agreement import (
    ADVERTISEMENT_BYTES_MAX,
    OPENED_OCTETS_MAX,
    Advertisement,
    OfferedNetwork,
    Unreadable,
    opened_advertisement,
    unsigned,
)
from controller.model.recent import Recent


def test_what_is_kept_is_bounded_by_its_octets_and_the_eldest_goes() -> None:
    made: list[str] = []

    def upper(text: str) -> str:
        made.append(text)
        return text.upper()

    recent = Recent(upper, len, 10)
    assert [recent(text) for text in ("aaaa", "bbbb", "aaaa", "cccc", "aaaa", "bbbb")] == [
        "AAAA", "BBBB", "AAAA", "CCCC", "AAAA", "BBBB",
    ]  # fmt: skip
    assert made == ["aaaa", "bbbb", "cccc", "bbbb"]
    assert recent("d" * 11) == "D" * 11 and recent("d" * 11) == "D" * 11  # too large to be kept
    assert made[-2:] == ["d" * 11, "d" * 11]


def test_many_threads_may_ask() -> None:
    recent = Recent(str.upper, len, 50)
    with ThreadPoolExecutor(8) as pool:
        words = [f"w{number % 40}" for number in range(4000)]
        assert list(pool.map(recent, words)) == [word.upper() for word in words]
    assert recent._kept == sum(map(len, recent._made)) <= 50


def test_a_neighbour_that_advertises_always_something_else_fills_no_memory() -> None:
    networks = tuple(
        OfferedNetwork(name=f"transit/n{number}", prefixes=tuple(f"10.{number}.{place}.0/24" for place in range(64)))
        for number in range(50)
    )

    def envelope(edition: int) -> Advertisement:
        return Advertisement(
            owner="transit", carrier="shop", edition=edition, expires_s=1_900_000_000, networks=networks
        )

    size = len(unsigned(envelope(1_700_000_000)).payload)
    assert ADVERTISEMENT_BYTES_MAX // 2 < size < ADVERTISEMENT_BYTES_MAX
    for edition in range(300):
        said = unsigned(envelope(1_700_000_000 + edition))
        assert opened_advertisement(said) is opened_advertisement(said)
    alive = sum(isinstance(each, Advertisement) for each in gc.get_objects())
    assert alive <= OPENED_OCTETS_MAX // size + 1
    with pytest.raises(Unreadable):
        opened_advertisement(unsigned(envelope(-1)))
