"""Networks with the same addresses: under which prefixes each knows the other, of the same length, one to one.

    source's network           between them            destination's network
    S1 ──▶ D1 as S knows it ──▶ as D knows both ──▶ S1 as D knows it ──▶ D1
    S1 ◀── D1 as S knows it ◀── as S knows both ◀── S1 as D knows it ◀── D1

Flows have the addresses that hosts have. Who sends translates, both addresses, into what the receiver knows
(docs/pipeline.md); so each side gives the prefixes under which it knows the other, from a pool of its own.
"""

import ipaddress
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from controller.fulfillment import numbering
from controller.model.agreement import Alias
from controller.model.inventory import Aliases, Inventory
from controller.model.requirements import Connection
from controller.model.stitch import Stitch

NO_POOL = "give {} a translation_pool, so that each side can know the other under other addresses"
Prefix = tuple[int, int]
"""128 bits and length."""


class Views(NamedTuple):
    """How each side of a connection knows the other."""

    source: tuple[Alias, ...] = ()
    """As the destination's network knows the source's."""
    destination: tuple[Alias, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.source or self.destination)


NOBODYS = Views()
"""Each knows the other as it is."""


def views(stitch: Stitch) -> Views:
    """Of a stitch: what the destination's side has given is in the agreement with the next domain."""
    connection, session = stitch.plan.connection, stitch.downstream
    agreement = session.agreement if session is not None else None
    source = agreement.source_aliases if agreement is not None else connection.source_aliases
    return Views(source, connection.destination_aliases)


def translated(prefixes: tuple[str, ...], aliases: tuple[Alias, ...]) -> tuple[str, ...]:
    """As the other network knows these; what has no alias it knows as it is."""
    return tuple(sorted({_moved(text, aliases) for text in prefixes})) if aliases else prefixes


def _moved(text: str, aliases: tuple[Alias, ...]) -> str:
    value, length = numbering.prefix(text)
    for alias in aliases:
        inside, to = numbering.prefix(alias.prefix), numbering.prefix(alias.alias)
        if length >= inside[1] and _is_inside(value, inside):
            return prefix_text(to[0] | (value ^ inside[0]), length)
    return text


def moved(address: int, aliases: tuple[Alias, ...]) -> int:
    """An address of 128 bits, as the other network knows it."""
    for alias in aliases:
        inside, to = numbering.prefix(alias.prefix), numbering.prefix(alias.alias)
        if _is_inside(address, inside):
            return to[0] | (address ^ inside[0])
    return address


def meant(address: int, aliases: tuple[Alias, ...]) -> int | None:
    """What an address is that the other network sends to; None: an address of its own, or of nobody."""
    for alias in aliases:
        if _is_inside(address, numbering.prefix(alias.prefix)):
            return None
    return moved(address, reversed_aliases(aliases))


def reversed_aliases(aliases: tuple[Alias, ...]) -> tuple[Alias, ...]:
    """From what the other network knows back to what it is."""
    return tuple(Alias(prefix=alias.alias, alias=alias.prefix) for alias in aliases)


def known_to(inventory: Inventory, network: str, other: str) -> tuple[Alias, ...]:
    """How one of our networks knows another."""
    known = inventory.aliases.get(f"{network} {other}")
    return known.pairs if known is not None else ()


def needed(
    inventory: Inventory, network: str, other: str, prefixes: Iterable[str], *, new: bool = True
) -> tuple[str, ...]:
    """Of the `prefixes` of `other` those that `network` has to know under others: it has addresses of them itself
    (looked at if `new`), or knows them so already."""
    outermost = _outermost(prefixes)
    held = {alias.prefix for alias in known_to(inventory, network, other)}
    own = inventory.networks.get(network)
    taken = [numbering.prefix(text) for text in (own.prefixes if own is not None and new else ())]
    return tuple(
        text for text in outermost if text in held or any(_meet(numbering.prefix(text), each) for each in taken)
    )


def _outermost(prefixes: Iterable[str]) -> list[str]:
    """Those that are inside no other."""
    kept: list[str] = []
    for text in sorted(set(prefixes), key=lambda text: (numbering.prefix(text)[1], text)):
        value, _ = numbering.prefix(text)
        if not any(_is_inside(value, numbering.prefix(outer)) for outer in kept):
            kept.append(text)
    return sorted(kept)


def give(
    inventory: Inventory, pool: Iterable[str], network: str, other: str, prefixes: Iterable[str]
) -> tuple[Alias, ...] | str:
    """Under which prefixes `network` is to know these of `other`: those that it has, else free ones of the pool; or the
    prefix for which there is no room."""
    held = {alias.prefix: alias for alias in known_to(inventory, network, other)}
    taken = [numbering.prefix(alias.alias) for each in inventory.aliases.values() for alias in each.pairs]
    taken += [numbering.prefix(text) for each in inventory.networks.values() for text in each.prefixes]
    given: list[Alias] = []
    for text in prefixes:
        alias = held.get(text)
        if alias is None:
            free = _free(numbering.prefix(text)[1], ":" in text, map(numbering.prefix, pool), taken)
            if free is None:
                return text
            taken.append(free)
            alias = Alias(prefix=text, alias=prefix_text(*free))
        given.append(alias)
    return tuple(sorted(given))


def _free(length: int, is_ipv6: bool, pool: Iterable[Prefix], taken: list[Prefix]) -> Prefix | None:
    """The first part of the pool of this length that meets nothing that is taken."""
    size = 1 << (128 - length)
    for start, pool_length in sorted(pool):
        if pool_length > length or (start >> 32 != 0xFFFF) != is_ipv6:
            continue
        end = start + (1 << (128 - pool_length))
        at = start
        for low, high in sorted(_range(each) for each in taken):
            if high < at or low >= end:
                continue
            if low >= at + size:
                break
            at = -(-(high + 1) // size) * size
        if at + size <= end:
            return at, length
    return None


def holding(inventory: Inventory, connections: Iterable[Connection]) -> Inventory:
    """With what these take of the pool; the very same where that is nothing new."""
    return with_aliases(inventory, *held_by(inventory, connections))


def with_aliases(inventory: Inventory, *new: Aliases | None) -> Inventory:
    more = {each.name: each for each in new if each is not None}
    return msgspec.structs.replace(inventory, aliases=inventory.aliases | more) if more else inventory


def held(inventory: Inventory, network: str, other: str, pairs: tuple[Alias, ...]) -> Aliases | None:
    """What one network is to hold when it needs these too; None: as it does."""
    known = inventory.aliases.get(f"{network} {other}")
    union = tuple(sorted({*(known.pairs if known is not None else ()), *pairs}))
    if not pairs or (known is not None and known.pairs == union and known.until_s is None):
        return None
    return Aliases(network=network, other=other, pairs=union)


def held_by(inventory: Inventory, connections: Iterable[Connection]) -> Iterator[Aliases]:
    """Of our own networks, as far as that is other than what is held."""
    for connection in connections:
        source, destination = connection.source_network, connection.destination_network
        for network, other, pairs in (
            (source, destination, connection.destination_aliases),
            (destination, source, connection.source_aliases),
        ):
            new = held(inventory, network, other, pairs) if is_own(inventory, network) else None
            if new is not None:
                yield new


def is_own(inventory: Inventory, network: str) -> bool:
    domain = inventory.domains.get(network.split("/")[0])
    return domain is not None and domain.own


def pool_of(inventory: Inventory) -> tuple[str, ...]:
    own = next((domain for domain in inventory.domains.values() if domain.own), None)
    return own.translation_pool if own is not None else ()


def prefix_text(value: int, length: int) -> str:
    if value >> 32 == 0xFFFF:
        return f"{ipaddress.IPv4Address(value & 0xFFFFFFFF)}/{length - 96}"
    return f"{ipaddress.IPv6Address(value)}/{length}"


def _range(prefix: Prefix) -> tuple[int, int]:
    value, length = prefix
    return value, value | ((1 << (128 - length)) - 1)


def _meet(one: Prefix, other: Prefix) -> bool:
    return _is_inside(one[0], other) or _is_inside(other[0], one)


def _is_inside(address: int, prefix: Prefix) -> bool:
    return not (address ^ prefix[0]) >> (128 - prefix[1])
