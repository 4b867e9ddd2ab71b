"""The server's end of TLS on one connection, without its socket."""

import os
import ssl
from collections.abc import Callable

_READ_BYTES = 1 << 16

Contexts = Callable[[], ssl.SSLContext]
"""What the next connection begins with."""


class TlsEnd:
    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.is_open = False
        """The handshake is done, and who is there has shown a certificate that may come in."""

    def received(self, data: bytes) -> bytes:
        """What was in it. Raises ssl.SSLError where that is none of who may come in, and at the end of all."""
        self._incoming.write(data)
        parts = []
        try:
            if not self.is_open:
                self._tls.do_handshake()
                self.is_open = True
            while True:
                parts.append(self._tls.read(_READ_BYTES))
        except ssl.SSLWantReadError:
            return b"".join(parts)

    def sealed(self, data: bytes) -> bytes:
        """As it goes over the wire, after all that is to be sent before it."""
        if data:
            self._tls.write(data)
        return self._outgoing.read()

    @property
    def certificate(self) -> bytes:
        """Of who is there (DER)."""
        return self._tls.getpeercert(binary_form=True) or b""


def server_context(*, key: bytes, certificates: bytes, authorities: str) -> ssl.SSLContext:
    """For HTTP/2 with clients whose certificate one of `authorities` has signed; all PEM. Raises ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authorities)
    context.set_alpn_protocols(["h2"])
    # The key is on no disk: OpenSSL reads it out of memory that has the name of a file.
    descriptor = os.memfd_create("key")
    try:
        os.write(descriptor, key.rstrip() + b"\n" + certificates)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context
