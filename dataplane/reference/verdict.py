"""What becomes of a frame."""

from dataclasses import dataclass

from dataplane.reasons import DropReason


@dataclass(frozen=True, slots=True)
class Pass:
    """Not ours: the kernel takes the frame as it came."""


@dataclass(frozen=True, slots=True)
class Forward:
    port: int
    frame: bytes
    reason: int = DropReason.NONE
    """Not NONE: the packet itself was dropped and counted, and `frame` is sent because of it (ICMP error, ARP, NS)."""


@dataclass(frozen=True, slots=True)
class Drop:
    reason: int
    """A DropReason, or what an entry says."""


@dataclass(frozen=True, slots=True)
class Punt:
    """To the controller; not counted as a drop."""

    reason: int
    """A PuntReason, or what an entry says."""
    frame: bytes
    vrf: int
    answer_class: int = 0


@dataclass(frozen=True, slots=True)
class Cut:
    """Too large for its path; cut into fragments, each with a verdict of its own."""

    pieces: tuple[Forward | Drop | Punt, ...]


Verdict = Pass | Forward | Drop | Punt | Cut
