"""Containers against a walk that takes SIDs one after the other, as nodes do (RFC 9800 §4.1)."""

import ipaddress
import random

import pytest

from controller.fulfillment import numbering
from controller.fulfillment.containers import (
    CONTAINERS_MAX,
    NODES_MAX,
    PINNED_NODES_MAX,
    Containers,
    encapsulation_bytes,
    pack,
    whole,
)

BLOCK = 0x5F000001 << 96


def locator(node: int, block: int = BLOCK) -> int:
    return block | node << 80


def walked(sent: tuple[int, ...]) -> list[tuple[int, int]]:
    """(locator, function) of each SID that is used, up to the service SID. A node knows its own by the locator, and a
    function by its number."""
    destination, *waiting = sent
    used = []
    while True:
        node, function = destination >> 80 << 80, destination >> 64 & 0xFFFF
        pinned = function >= numbering.FIRST_FUNCTION
        used.append((node, function if pinned else 0))
        taken = 32 if pinned else 16
        rest = destination << taken & (1 << 96) - 1
        if rest:
            destination = destination >> 96 << 96 | rest
        elif waiting:
            destination = waiting.pop(0)
        else:
            return used


@pytest.mark.parametrize("seed", range(200))
def test_nodes_use_the_segments_of_the_path_one_after_the_other(seed: int) -> None:
    chance = random.Random(seed)
    blocks = [BLOCK, 0x5F000002 << 96][: chance.choice((1, 1, 2))]
    steps = [
        (
            locator(chance.randint(1, 0xDFFF), chance.choice(blocks)),
            numbering.END_X + chance.randrange(512) if chance.random() < 0.3 else 0,
        )
        for _ in range(chance.randint(0, 12))
    ]
    tail = locator(chance.randint(1, 0xDFFF), chance.choice(blocks))
    service = numbering.sid(tail, chance.randint(numbering.FIRST_SERVICE, 0xFFFF))
    packed = pack(steps, tail)
    assert walked(packed.sent(service)) == [*steps, (tail, service >> 64 & 0xFFFF)]
    shown = [numbering.sid_text(numbering.sid(at, function)) for at, function in steps]
    assert packed.sids(service) == (*shown, numbering.sid_text(service))
    assert 0 <= packed.merge_bits <= 64 and packed.merge_bits % 16 == 0


def test_what_fits_one_container_needs_no_list() -> None:
    path = [(locator(number), 0) for number in range(1, 6)]
    assert [len(pack(path[:count], locator(9)).values) for count in range(6)] == [1, 1, 1, 1, 1, 2]
    packed = pack(path[:2], locator(9))
    assert packed == Containers(values=(int(ipaddress.IPv6Address("5f00:1:1:2::")),), merge_bits=32)
    service = numbering.sid(locator(9), 0xE200)
    assert [numbering.sid_text(container) for container in packed.sent(service)] == ["5f00:1:1:2:9:e200::"]
    assert [encapsulation_bytes(count) for count in (1, 2, 4)] == [40, 64, 96]


def test_a_service_sid_of_another_domain_is_a_segment_of_its_own() -> None:
    """It is what its domain has signed, whatever its function."""
    foreign = int(ipaddress.IPv6Address("5f00:2:4:1006::"))
    packed = pack([(locator(1), 0)], locator(4, 0x5F000002 << 96))
    assert packed.sids(foreign) == ("5f00:1:1::", "5f00:2:4:1006::")
    assert packed.sent(foreign) == (locator(1), foreign)


@pytest.mark.parametrize(("most", "function"), [(NODES_MAX, 0), (PINNED_NODES_MAX, numbering.END_X + 1)])
def test_the_longest_paths_fit(most: int, function: int) -> None:
    longest, longer = ([(locator(node), function) for node in range(1, count + 1)] for count in (most, most + 1))
    assert len(pack(longest, locator(99)).values) == CONTAINERS_MAX and not pack(longest, locator(99)).is_too_long
    assert pack(longer, locator(99)).is_too_long


@pytest.mark.parametrize("seed", range(50))
def test_a_path_without_a_service_ends_with_its_last_node(seed: int) -> None:
    chance = random.Random(seed)
    steps = [
        (locator(chance.randint(1, 0xDFFF)), numbering.END_X + chance.randrange(512) if chance.random() < 0.3 else 0)
        for _ in range(chance.randint(1, 20))
    ]
    assert walked(whole(steps)) == steps
