"""Keys and certificates of agents that listen on TCP, and of the controller that leads them (mutual TLS).

```
KEY_DIR/agents/ca.{key,pem}           the domain's authority of agents, and of nothing else
KEY_DIR/agents/controller.{key,pem}   for clients only: the controller leads, and nobody takes it for an agent
KEY_DIR/agents/NAME.{key,pem}         for servers only: an agent cannot lead another one
```
"""

import datetime
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from controller.eastwest.identity import certificate_of, name_of, pem, private_pem, write_new
from controller.errors import ConfigInvalid
from dataplane import addressing

LIFETIME = datetime.timedelta(days=3650)
_RESERVED = ("ca", "controller")


def make(domain: str, key_dir: Path, agent: str, addresses: Sequence[str]) -> dict[str, dict[str, str]]:
    """Makes what is missing; returns what to write into the two configurations. Raises ConfigInvalid.

    `addresses`: under which the controller reaches the agent, names or IP addresses.
    """
    if not addresses:
        raise ConfigInvalid(f"agent {agent}: --address is missing: where its controller reaches it, name or IP address")
    if agent in _RESERVED or "/" in agent or agent.startswith("."):
        raise ConfigInvalid(f"agent {agent!r}: not a name of a node")
    directory = key_dir / "agents"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = directory / "ca.pem"
    ca_key = _key(directory / "ca.key")
    name = name_of(f"netstitch agents of {domain}")
    if not authority.exists():
        root = certificate_of(name, name, ca_key.public_key(), LIFETIME).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        write_new(authority, pem(root.sign(ca_key, hashes.SHA256())))
    leaves: list[tuple[str, x509.ObjectIdentifier, Sequence[str]]] = [
        ("controller", ExtendedKeyUsageOID.CLIENT_AUTH, [domain]),
        (agent, ExtendedKeyUsageOID.SERVER_AUTH, addresses),
    ]
    for leaf, purpose, reached in leaves:
        key = _key(directory / f"{leaf}.key")
        if not (directory / f"{leaf}.pem").exists():
            made = (
                certificate_of(name_of(leaf), name, key.public_key(), LIFETIME)
                .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
                .add_extension(x509.SubjectAlternativeName([_address(address) for address in reached]), critical=False)
                .add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
                .sign(ca_key, hashes.SHA256())
            )
            write_new(directory / f"{leaf}.pem", pem(made))
    ours = {"certificate": str(directory / "controller.pem"), "key": str(directory / "controller.key")}
    theirs = {"tls_certificate": str(directory / f"{agent}.pem"), "tls_key": str(directory / f"{agent}.key")}
    return {
        "agent_tls": {"ca": str(authority), **ours},
        "agent": {**theirs, "tls_client_ca": str(authority)},
    }


def _address(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(addressing.address(text))
    except ValueError:
        return x509.DNSName(text)


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Made if there is none."""
    if not path.exists():
        write_new(path, private_pem(ec.generate_private_key(ec.SECP256R1())))
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as exc:
        raise ConfigInvalid(f"{path}: no private key ({exc}); move it away and run `stitchd keygen` again") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigInvalid(f"{path}: a key on P-256 is expected; move it away and run `stitchd keygen` again")
    return key
