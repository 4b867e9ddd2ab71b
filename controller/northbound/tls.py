"""TLS of the REST API: the operator's certificate, or one that is made once and known by its fingerprint."""

import datetime
import hashlib
import ipaddress
import socket
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from controller import durable_file
from controller.config import Config, listen
from controller.errors import ConfigInvalid

CERTIFICATE_FILE, KEY_FILE = "api.crt", "api.key"
LIFETIME = datetime.timedelta(days=3650)
"""A client that pins the certificate does not look at its end; one that has it as a CA does."""
CLOCK_SKEW = datetime.timedelta(days=1)
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of 1.3 are all good."""


def context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Raises ConfigInvalid where the files are missing, do not belong together, or the key is open to others."""
    try:
        if key.stat().st_mode & 0o077:
            raise ConfigInvalid(f"{key}: others may read this secret; run `chmod go= {key}` and consider a new key")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.minimum_version = ssl.TLSVersion.TLSv1_2
        tls.set_ciphers(_CIPHERS)
        tls.options |= ssl.OP_NO_RENEGOTIATION
        tls.set_alpn_protocols(["http/1.1"])
        tls.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as exc:
        raise ConfigInvalid(
            f"{certificate}, {key}: no certificate (PEM) with its unencrypted private key: {exc.reason or exc}"
        ) from exc
    except OSError as exc:
        raise ConfigInvalid(f"{exc.filename or certificate}: cannot be read: {exc.strerror}") from exc
    return tls


def renew(live: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """New connections get what is in the files now. Raises ConfigInvalid, and then nothing has changed."""
    context(certificate, key)
    live.load_cert_chain(certificate, key, password=_no_password)


def fingerprint(certificate: Path) -> str:
    """SHA-256 of the first certificate in the file, as `stitch --fingerprint` takes it. Raises ConfigInvalid."""
    try:
        parsed = x509.load_pem_x509_certificate(certificate.read_bytes())
    except OSError as exc:
        raise ConfigInvalid(f"{certificate}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigInvalid(f"{certificate}: no certificate in PEM: {exc}") from exc
    return f"SHA256:{hashlib.sha256(parsed.public_bytes(serialization.Encoding.DER)).hexdigest()}"


def of_api(config: Config) -> tuple[Path, Path] | None:
    """Certificate and key of the API, made where it has none of its own; None: it is not encrypted. Raises
    ConfigInvalid."""
    if config.tls is None:
        return None
    if config.tls.certificate is not None and config.tls.key is not None:
        return config.tls.certificate, config.tls.key
    return generated(config.key_dir, listen(config.listen, "listen").host)


def generated(directory: Path, host: str) -> tuple[Path, Path]:
    """Certificate and key in `directory`, made where they are missing. Raises ConfigInvalid."""
    certificate_path, key_path = directory / CERTIFICATE_FILE, directory / KEY_FILE
    if certificate_path.exists():
        return certificate_path, key_path
    try:
        if not key_path.exists():
            private = ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            durable_file.write(key_path, private)
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigInvalid(f"{key_path}: not a key that stitchd made; name it in `tls` with its certificate")
        durable_file.write(certificate_path, _certificate(host, key).public_bytes(serialization.Encoding.PEM))
    except OSError as exc:
        raise ConfigInvalid(f"{exc.filename or directory}: cannot be made: {exc.strerror}") from exc
    except (ValueError, TypeError) as exc:
        raise ConfigInvalid(f"{key_path}: no private key ({exc}); remove it for a new one") from exc
    return certificate_path, key_path


def _certificate(host: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """For the address that is listened at (all: this machine's name), so that it can be given as --ca-file too."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "netstitch API")])
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    if (own := socket.gethostname()).isascii():
        names.append(x509.DNSName(own))
    try:
        if not (address := ipaddress.ip_address(host)).is_unspecified:
            names.append(x509.IPAddress(address))
    except ValueError:
        names.append(x509.DNSName(host))
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )


def _no_password() -> str:
    """Asked for an encrypted key: OpenSSL would ask on the terminal, and a server would wait there."""
    raise ConfigInvalid("the private key of the API's certificate is encrypted; stitchd needs it without a password")
