"""`stitch agreement verify`: whether both domains signed exactly what an exported agreement says. Needs no trust in
the controller that exported it, only the two pinned keys."""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from controller.cli.changing import read_input
from controller.cli.errors import AnswerIsNo, InputInvalid

if TYPE_CHECKING:
    from controller.model.agreement import Agreement


_SIGNED = ("offer_signature", "acceptor_end", "latency_us", "acceptance_signature")
"""What a status holds beside the terms, which are the spec."""


def read_agreements(file: str) -> list[tuple[str, "Agreement"]]:
    """Names and contents of what `stitch get agreements -o json|yaml` printed.

    Raises InputInvalid; AnswerIsNo for an offer that is not accepted.
    """
    import msgspec

    from controller.model.agreement import Agreement

    data = _load(file)
    found: list[tuple[str, Agreement]] = []
    for place, resource in enumerate(data if isinstance(data, list) else [data]):
        where = f"{file}: document {place + 1}" if isinstance(data, list) else file
        if not isinstance(resource, dict) or resource.get("kind") != "Agreement":
            raise InputInvalid(f"{where}: expected an Agreement, as `stitch get agreement NAME -o json` prints it")
        try:
            name = str(resource["metadata"]["name"])
            status = resource["status"]
            if not status.get("acceptance_signature"):
                raise AnswerIsNo(
                    f"{where}: {name} has one signature only, {resource['spec']['offeror']}'s: no agreement yet"
                )
            signed = {field: status.get(field) for field in _SIGNED}
            agreement = msgspec.convert({"terms": resource["spec"], **signed}, Agreement)
        except (msgspec.ValidationError, KeyError, TypeError, AttributeError) as error:
            raise InputInvalid(f"{where}: no agreement: {error}") from error
        found.append((name, agreement))
    if not found:
        raise InputInvalid(f"{file}: there is no agreement in it")
    return found


def verify(name: str, agreement: "Agreement", keys: Mapping[str, str]) -> tuple[str, ...]:
    """Who signed. Raises AnswerIsNo with everything that does not match; InputInvalid where a key is missing."""
    from controller.model.agreement import signing_bytes

    terms = agreement.terms
    acceptance = signing_bytes("acceptance", terms, agreement.acceptor_end, agreement.latency_us)
    wrong = [
        f"{name}: {what} is not signed by {domain}: the {what} was altered, or signed with another key than {domain}'s"
        for what, domain, data, signature in (
            ("offer", terms.offeror, signing_bytes("offer", terms), agreement.offer_signature),
            ("acceptance", terms.acceptor, acceptance, agreement.acceptance_signature),
        )
        if not _signed(_key(keys, domain), data, signature)
    ]
    if terms.id != name:
        wrong.append(f"{name}: its terms are those of {terms.id}")
    if wrong:
        raise AnswerIsNo("\n".join(wrong))
    return terms.offeror, terms.acceptor


def parse_keys(texts: list[str]) -> dict[str, str]:
    """`DOMAIN=KEY` each; keys are Ed25519, base64. Raises InputInvalid."""
    keys: dict[str, str] = {}
    for text in texts:
        domain, separator, key = text.partition("=")
        if not separator or not domain or _decoded(key) is None or len(_decoded(key) or b"") != 32:
            raise InputInvalid(f"--key {text}: expected DOMAIN=KEY, KEY an Ed25519 public key (32 octets) in base64")
        keys[domain] = key
    return keys


def _key(keys: Mapping[str, str], domain: str) -> str:
    if not keys.get(domain):
        raise InputInvalid(f"no key of {domain} is known; give it with --key {domain}=KEY")
    return keys[domain]


def _signed(key: str, data: bytes, signature: str) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    raw_key, raw_signature = _decoded(key), _decoded(signature)
    if raw_key is None or raw_signature is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(raw_key).verify(raw_signature, data)
    except (ValueError, InvalidSignature):
        return False
    return True


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _load(file: str) -> Any:
    from controller.language.fault import ManifestInvalid
    from controller.language.tree import load

    text = read_input(file)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass  # YAML then, whose faults have a place
    try:
        documents = [tree.data for tree in load(text, file)]
    except ManifestInvalid as error:
        raise InputInvalid(str(error)) from error
    return documents[0] if len(documents) == 1 else documents
