"""A TLS client that knows a controller by the fingerprint of its certificate, as `stitchd fingerprint` prints it."""

import hashlib
import hmac
import re
import ssl
from typing import Any

_PREFIX = re.compile(r"sha256(?:[:=]| fingerprint=)", re.IGNORECASE)
_DIGITS = re.compile(r"[0-9a-f]{64}")


def pinned(fingerprint: str) -> ssl.SSLContext:
    """For `verify`: the handshake fails, before anything is sent, with any other certificate.

    `fingerprint`: `SHA256:` and 64 hexadecimal digits, with or without colons. Raises ValueError.
    """
    digits = _PREFIX.sub("", fingerprint.strip()).replace(":", "").lower()
    if not _DIGITS.fullmatch(digits):
        raise ValueError(f"{fingerprint[:100]!r} is no fingerprint: expected SHA256: and 64 hexadecimal digits")

    def check(certificate: bytes | None) -> None:
        digest = hashlib.sha256(certificate or b"").hexdigest()
        if not hmac.compare_digest(digest, digits):
            raise ssl.SSLCertVerificationError(
                f"its certificate is SHA256:{digest}, not the pinned SHA256:{digits}; nothing was sent"
            )

    class Socket(ssl.SSLSocket):
        """Of threads."""

        def do_handshake(self, *args: Any, **options: Any) -> None:
            super().do_handshake(*args, **options)
            check(self.getpeercert(binary_form=True))

    class Object(ssl.SSLObject):
        """Of asyncio."""

        def do_handshake(self) -> None:
            super().do_handshake()
            check(self.getpeercert(binary_form=True))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # `check` does it
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class, context.sslobject_class = Socket, Object
    return context
