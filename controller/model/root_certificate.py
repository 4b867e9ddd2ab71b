"""The TLS root certificate of a domain: of which domain and of which key it is."""

import base64

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

_NAME = "netstitch root of "


def subject(domain: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{_NAME}{domain}")])


def domain_of(root: x509.Certificate) -> str:
    """Whose it says it is, or its whole subject."""
    return root.subject.rfc4514_string().removeprefix(f"CN={_NAME}")


def misfit(root_pem: str, domain: str, key: str) -> str:
    """Why this is not the root certificate of `domain` and of its Ed25519 `key` (base64); empty: it is.

    The name matters too: TLS looks roots up by it, so a root under another domain's name would lock that one out. And
    it is alone, since TLS believes whatever stands in the same text: nothing is before or behind it but white space.
    """
    try:
        root = x509.load_pem_x509_certificate(root_pem.encode())
        root.verify_directly_issued_by(root)
        public_key = root.public_key()
    except (ValueError, TypeError, InvalidSignature):
        return "`certificate` is no self-signed certificate in PEM"
    if root.public_bytes(Encoding.PEM).decode().split() != root_pem.split():
        return "`certificate` is more than one certificate in PEM: leave out what stands before and behind it"
    pinned = isinstance(public_key, ed25519.Ed25519PublicKey) and (
        base64.b64encode(public_key.public_bytes_raw()).decode() == key
    )
    if root.subject != subject(domain) or not pinned:
        return (
            "`certificate` and `key` do not belong together or to this name; "
            f"take both from what its operator's `stitchd keygen --domain {domain}` prints"
        )
    return ""
