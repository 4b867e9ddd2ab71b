"""Containers of compressed SIDs (RFC 9800, NEXT-CSID): how a path is written into destination addresses.

```
 |   block |  node |  node | function |  node |  tail | service |     up to six 16-bit SIDs after the block
             `─ End  `─── End.X ────'   `─ End  `──── End.DT46 ─'
```

A node takes the first SID of the destination, which is its own, and moves the rest to the left; where nothing is left
it takes the next container of the SRH. What fits one container needs no SRH.
"""

from collections.abc import Sequence

import msgspec

from controller.fulfillment import numbering

CONTAINERS_MAX = 4
SIDS = 6
"""Of 16 bits, in one container."""
_SERVICE_SIDS = 2
"""Node and function of the service SID."""
NODES_MAX = (CONTAINERS_MAX - 1) * SIDS + SIDS - _SERVICE_SIDS
"""Inner nodes of a path that needs no End.X."""
PINNED_NODES_MAX = (CONTAINERS_MAX - 1) * (SIDS // 2) + (SIDS - _SERVICE_SIDS) // 2
"""Of one where each says by which of several links it goes on."""
_REST = (1 << 96) - 1


class Containers(msgspec.Struct, frozen=True, kw_only=True):
    """Of one path, without its service SID."""

    values: tuple[int, ...]
    """In the order of travel; of the last one only the beginning, or nothing, where the service SID is what it has."""
    merge_bits: int
    """How far to the right the service SID's node and function go in the last one. 0: the service SID is the last one.
    """

    @property
    def is_too_long(self) -> bool:
        return len(self.values) > CONTAINERS_MAX

    def sent(self, service_sid: int) -> tuple[int, ...]:
        """What packets carry, in the order of travel."""
        last = self.values[-1] | (service_sid & _REST) >> self.merge_bits if self.merge_bits else service_sid
        return (*self.values[:-1], last)

    def sids(self, service_sid: int) -> tuple[str, ...]:
        """The same taken apart."""
        taken = [sid for value in self.values[:-1] for sid in apart(value)]
        taken += apart(self.values[-1]) if self.merge_bits else ()
        return (*taken, numbering.sid_text(service_sid))


def node_id(locator: int) -> int:
    return locator >> 80 & 0xFFFF


def pack(steps: Sequence[tuple[int, int]], tail: int) -> Containers:
    """`steps`: of each inner node its locator, and its function of End.X or 0. `tail`: locator of the endpoint."""
    packed = _packed(steps)
    values = [_written(block, sids) for block, sids in packed]
    if packed and packed[-1][0] == tail >> 96 and len(packed[-1][1]) + _SERVICE_SIDS <= SIDS:
        return Containers(values=tuple(values), merge_bits=16 * len(packed[-1][1]))
    return Containers(values=(*values, 0), merge_bits=0)


def whole(steps: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Containers of a path that ends with the last of these: no service SID follows."""
    return tuple(_written(block, sids) for block, sids in _packed(steps))


def _packed(steps: Sequence[tuple[int, int]]) -> list[tuple[int, list[int]]]:
    """Of each container its block and SIDs."""
    packed: list[tuple[int, list[int]]] = []
    for locator, function in steps:
        block = locator >> 96
        sids = [node_id(locator), *([function] if function else [])]
        if not packed or packed[-1][0] != block or len(packed[-1][1]) + len(sids) > SIDS:
            packed.append((block, []))
        packed[-1][1].extend(sids)
    return packed


def _written(block: int, sids: Sequence[int]) -> int:
    value = block << 96
    for place, sid in enumerate(sids):
        value |= sid << 80 - 16 * place
    return value


def apart(container: int) -> tuple[str, ...]:
    """Its SIDs as they are used, each written as if it stood alone: `5f00:1:2::`, `5f00:1:3:e004::`."""
    block = container >> 96 << 96
    sids = [container >> 80 - 16 * place & 0xFFFF for place in range(SIDS)]
    values: list[int] = []
    for sid in sids:
        if not sid:
            break
        if sid >= numbering.FIRST_FUNCTION and values:
            values[-1] |= sid << 64
        else:
            values.append(block | sid << 80)
    return tuple(map(numbering.sid_text, values))


def encapsulation_bytes(containers: int) -> int:
    """Outer IPv6 header, and an SRH of what is not in its destination (RFC 8986 §5.2, H.Encaps.Red)."""
    return 40 + (8 + 16 * (containers - 1) if containers > 1 else 0)
