"""Keys of the tunnels of a border that are renewed: which epoch is in use there, and which one is to come.

in use ── due, or a neighbour asks ──▶ next: keys are exchanged ── both send by them ──▶ in use, after a moment
"""

from controller.model.intent import Value


class TheirKeys(Value, frozen=True, kw_only=True):
    """The neighbour's of one epoch, which it has signed."""

    public_key: str
    endpoint: str
    kem_key: bytes = b""
    """Where it has begun."""
    kem_ciphertext: bytes = b""
    """Where we have."""


class Epoch(Value, frozen=True, kw_only=True):
    number: int
    begun_s: float
    theirs: TheirKeys | None = None
    """None: it has not answered."""
    we_send: bool = False
    """What leaves us takes these keys."""
    they_send: bool = False
    """As the neighbour says."""
    complete_s: float | None = None
    """Since when both do: the ones before are not needed any more, once what is under way has arrived."""


class BorderKeys(Value, frozen=True, kw_only=True):
    last: int = 0
    """The highest number that there was of either side: none is used twice."""
    in_use: Epoch | None = None
    """None: the keys that agreements name."""
    next: Epoch | None = None
    said_s: float = 0.0
    """When the neighbour was last told, whether or not it was new."""
    said: str = ""
    """What of it."""
