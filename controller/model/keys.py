"""A domain's signing key, as the pure parts see it."""

from typing import Protocol


class Keys(Protocol):
    """Ed25519 (RFC 8032): deterministic, so that equal histories give equal bytes."""

    @property
    def public_key(self) -> str:
        """Our own, base64."""

    def sign(self, data: bytes) -> bytes:
        """With our own key."""

    def verify(self, domain_key: str, data: bytes, signature: bytes) -> bool:
        """Whether the holder of `domain_key` (base64) signed `data`. False for whatever is no key or signature."""
