"""Who a domain is to its neighbours: one Ed25519 key, which signs its agreements and its TLS root certificate.

```
 domain.key (Ed25519) ──signs──▶ offers, acceptances, withdrawals
        └──signs──▶ root.pem ──signs──▶ leaf (ECDSA P-256), new at every start, never stored
```

Neighbours pin the key and the root certificate, both of the same key. The leaf is ECDSA because TLS stacks (BoringSSL,
which gRPC uses) verify Ed25519 in a certificate chain, but do not negotiate it for the handshake.
"""

import base64
import datetime
import os
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controller.errors import ConfigInvalid
from controller.model import root_certificate

KEY_FILE = "domain.key"
ROOT_FILE = "root.pem"
_GET_KEY_BACK = "get that key back from a backup; with another one, all neighbours have to pin this domain anew"
ROOT_LIFETIME = datetime.timedelta(days=7300)
LEAF_LIFETIME = datetime.timedelta(days=825)
CLOCK_SKEW = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A domain's own keys. Satisfies the core's `Keys`. Its `repr` shows no secret."""

    domain: str
    root_certificate: str
    """PEM; public."""
    leaf_certificate: str
    """PEM; public."""
    leaf_key: bytes = field(repr=False)
    """PEM; secret."""
    _signing_key: ed25519.Ed25519PrivateKey = field(repr=False)

    @property
    def public_key(self) -> str:
        """Ed25519, raw, base64: what neighbours pin."""
        return base64.b64encode(self._signing_key.public_key().public_bytes_raw()).decode()

    def sign(self, data: bytes) -> bytes:
        """Ed25519 signature, 64 octets; deterministic (RFC 8032)."""
        return self._signing_key.sign(data)

    def verify(self, domain_key: str, data: bytes, signature: bytes) -> bool:
        """Whether the owner of `domain_key` (base64) signed `data`. A malformed key or signature is a no."""
        return verify(domain_key, data, signature)


def verify(domain_key: str, data: bytes, signature: bytes) -> bool:
    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(domain_key, validate=True))
        key.verify(signature, data)
    except (ValueError, InvalidSignature):
        return False
    return True


def keygen(domain: str, key_dir: Path) -> Identity:
    """Makes what is missing in `key_dir` (0700; files 0600) and loads it. Raises ConfigInvalid."""
    key_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    key_path, root_path = key_dir / KEY_FILE, key_dir / ROOT_FILE
    if not key_path.exists():
        if root_path.exists():
            raise ConfigInvalid(f"{root_path} is there without its key, {key_path}: {_GET_KEY_BACK}")
        key = ed25519.Ed25519PrivateKey.generate()
        write_new(key_path, private_pem(key))
    if not root_path.exists():
        write_new(root_path, pem(_root_certificate(domain, _load_key(key_path))))
    return load(domain, key_dir)


def load(domain: str, key_dir: Path) -> Identity:
    """Raises ConfigInvalid where a file is missing, damaged, readable by others, or of another domain."""
    key_path, root_path = key_dir / KEY_FILE, key_dir / ROOT_FILE
    for path in (key_dir, key_path):
        if path.exists() and path.stat().st_mode & 0o077:
            raise ConfigInvalid(f"{path}: others may read this secret; run `chmod go= {path}` and consider a new key")
    key = _load_key(key_path)
    try:
        root = x509.load_pem_x509_certificate(root_path.read_bytes())
    except (OSError, ValueError) as exc:
        raise ConfigInvalid(
            f"{root_path}: no certificate ({exc}); where there is no such file, `stitchd keygen` makes it with the key "
            "that is there"
        ) from exc
    if root.subject != root_certificate.subject(domain):
        whose = root_certificate.domain_of(root)
        raise ConfigInvalid(
            f"{root_path} is the certificate of domain {whose!r}, not of {domain!r}: correct the name, or give "
            f"{domain!r} a key directory of its own; leave these files as they are: neighbours of {whose!r} pinned them"
        )
    if root.public_key() != key.public_key():
        raise ConfigInvalid(f"{root_path} was made with another key than {key_path}: {_GET_KEY_BACK}")
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    return Identity(
        domain=domain,
        root_certificate=pem(root).decode(),
        leaf_certificate=pem(_leaf_certificate(domain, root, key, leaf_key.public_key())).decode(),
        leaf_key=private_pem(leaf_key),
        _signing_key=key,
    )


def issued_by(leaf_der: bytes, root_pem: str, domain: str) -> bool:
    """Whether `leaf_der` names `domain` and was signed with the key of `root_pem`."""
    try:
        leaf = x509.load_der_x509_certificate(leaf_der)
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(root_pem.encode()))
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return names.get_values_for_type(x509.DNSName) == [domain]


def _root_certificate(domain: str, key: ed25519.Ed25519PrivateKey) -> x509.Certificate:
    name = root_certificate.subject(domain)
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        certificate_of(name, name, key.public_key(), ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, None)
    )


def _leaf_certificate(
    domain: str, root: x509.Certificate, key: ed25519.Ed25519PrivateKey, leaf_key: ec.EllipticCurvePublicKey
) -> x509.Certificate:
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        certificate_of(name_of(domain), root.subject, leaf_key, LEAF_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(domain)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .sign(key, None)
    )


def certificate_of(
    subject: x509.Name,
    issuer: x509.Name,
    key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey,
    lifetime: datetime.timedelta,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + lifetime)
    )


def name_of(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _load_key(path: Path) -> ed25519.Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as exc:
        raise ConfigInvalid(f"{path}: no private key ({exc}); run `stitchd keygen`") from exc
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ConfigInvalid(f"{path}: an Ed25519 key is expected; move it away and run `stitchd keygen`")
    return key


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def private_pem(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_new(path: Path, content: bytes) -> None:
    """All or nothing, never over an existing file, 0600 from the first moment on."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # another keygen was first: its file is as good
    finally:
        draft.unlink()
