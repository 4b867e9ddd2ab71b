"""What nftables holds of one table of the family inet, read by netlink: linux/netfilter/nf_tables.h."""

import errno
import hashlib
import struct
from collections.abc import Iterator

from dataplane.host.netlink import DUMP, NETFILTER, Netlink, attribute, attributes, each_attribute

EVENTS = 7
"""NFNLGRP_NFTABLES: the multicast group of changes."""
_SUBSYSTEM, _INET = 10 << 8, 1
_TABLE, _CHAIN, _RULE, _SET, _ELEMENT = 1, 4, 7, 10, 13
"""NFT_MSG_GET..."""
_TABLE_NAME, _SET_NAME, _ELEMENT_TABLE, _ELEMENT_SET, _ELEMENTS = 1, 2, 1, 2, 3
_HEADER = struct.Struct("!BBH")
"""struct nfgenmsg: family, version, resource. The resource is a generation, which changes with other tables too."""


def digest(table: str) -> bytes | None:
    """Of all chains, rules, sets and elements, with their handles; None: there is no such table. Raises OSError."""
    name = table.encode() + b"\0"
    with Netlink(NETFILTER) as netlink:
        try:
            parts = [netlink.ask(_SUBSYSTEM | _TABLE, _request(attribute(_TABLE_NAME, name)))]
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        parts += [
            [answer for answer in netlink.ask(_SUBSYSTEM | kind, _request(), DUMP) if _of(answer, name)]
            for kind in (_CHAIN, _RULE, _SET)
        ]
        for answer in parts[-1]:
            asked = attribute(_ELEMENT_TABLE, name) + attribute(_ELEMENT_SET, _attributes(answer)[_SET_NAME])
            parts.append(sorted(_elements(netlink.ask(_SUBSYSTEM | _ELEMENT, _request(asked), DUMP))))
    content = hashlib.blake2b(digest_size=16)
    for answers in parts:
        for answer in answers:
            content.update(len(answer).to_bytes(4, "big") + answer[_HEADER.size :])
    return content.digest()


def _request(body: bytes = b"") -> bytes:
    return _HEADER.pack(_INET, 0, 0) + body


def _attributes(answer: bytes) -> dict[int, bytes]:
    return attributes(answer[_HEADER.size :])


def _of(answer: bytes, table: bytes) -> bool:
    """Chains, rules and sets name their table in the same attribute as it does."""
    return answer[0] == _INET and _attributes(answer).get(_TABLE_NAME) == table


def _elements(answers: list[bytes]) -> Iterator[bytes]:
    """In no fixed order; with as many bytes before as a header has."""
    for answer in answers:
        for _, element in each_attribute(_attributes(answer).get(_ELEMENTS, b"")):
            yield bytes(_HEADER.size) + element
