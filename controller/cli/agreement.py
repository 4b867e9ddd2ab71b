"""`stitch agreement verify`: whether both domains signed exactly what an exported agreement says, and the origin asks
for it. Needs no trust in the controller that exported it, only the pinned keys."""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from controller.cli.changing import read_input
from controller.cli.errors import AnswerIsNo, InputInvalid

if TYPE_CHECKING:
    from controller.model.agreement import Acceptance, Envelope, Mandate, Terms


class Exported(NamedTuple):
    """What `stitch get agreement NAME -o json` printed, taken apart."""

    name: str
    spec: dict[str, Any]
    status: dict[str, Any]
    offer: "Envelope"
    acceptance: "Envelope"
    terms: "Terms"
    mandate: "Mandate"
    accepted: "Acceptance"

    @property
    def domains(self) -> tuple[str, ...]:
        """Whose keys it takes to verify it."""
        return tuple(dict.fromkeys((self.terms.offeror, self.terms.acceptor, self.mandate.origin)))


def read_agreements(file: str) -> list[Exported]:
    """Of what `stitch get agreements -o json|yaml` printed.

    Raises InputInvalid; AnswerIsNo for an offer that is not accepted.
    """
    data = _load(file)
    agreements = []
    for place, resource in enumerate(data if isinstance(data, list) else [data]):
        where = f"{file}: document {place + 1}" if isinstance(data, list) else file
        if not isinstance(resource, dict) or resource.get("kind") != "Agreement":
            raise InputInvalid(f"{where}: expected an Agreement, as `stitch get agreement NAME -o json` prints it")
        agreements.append(_exported(where, resource))
    if not agreements:
        raise InputInvalid(f"{file}: there is no agreement in it")
    return agreements


def _exported(where: str, resource: dict[str, Any]) -> Exported:
    import msgspec

    from controller.model.agreement import Acceptance, Envelope, Terms, Unreadable, opened, opened_mandate

    try:
        name = str(resource["metadata"]["name"])
        spec, status = dict(resource["spec"]), dict(resource["status"])
        if "offer_signature" in status:
            raise InputInvalid(f"{where}: {name} is of a release before mandates: verify it with that release")
        offer = msgspec.convert(status["offer"], Envelope)
        terms = opened(offer)
        if not isinstance(terms, Terms):
            raise InputInvalid(f"{where}: {name} has no offer, but a signed {offer.kind}")
        if not status.get("acceptance"):
            raise AnswerIsNo(f"{where}: {name} has one signature only, {terms.offeror}'s: no agreement yet")
        acceptance = msgspec.convert(status["acceptance"], Envelope)
        accepted = opened(acceptance)
        if not isinstance(accepted, Acceptance):
            raise InputInvalid(f"{where}: {name} has no acceptance, but a signed {acceptance.kind}")
        mandate = opened_mandate(terms.mandate)
    except (msgspec.ValidationError, KeyError, TypeError, ValueError, AttributeError, Unreadable) as error:
        raise InputInvalid(f"{where}: no agreement: {error}") from error
    return Exported(name, spec, status, offer, acceptance, terms, mandate, accepted)


def verify(exported: Exported, keys: Mapping[str, str]) -> str:
    """Who signed, in words. Raises AnswerIsNo with all that does not match; InputInvalid where a key is missing."""
    name, terms, mandate, accepted = exported.name, exported.terms, exported.mandate, exported.accepted
    wrong = [
        f"{name}: {what} is not signed by {domain}: the {what} was altered, or signed with another key than {domain}'s"
        for what, domain, envelope in (
            ("offer", terms.offeror, exported.offer),
            ("acceptance", terms.acceptor, exported.acceptance),
            ("mandate", mandate.origin, terms.mandate),
        )
        if not _signed(_key(keys, domain), envelope)
    ]
    if (accepted.id, accepted.revision, accepted.offer) != (terms.id, terms.revision, exported.offer.digest):
        wrong.append(f"{name}: {terms.acceptor} has accepted another offer than this one")
    if mandate.origin != terms.origin or terms.expires_s > mandate.expires_s:
        wrong.append(f"{name}: the mandate of {mandate.origin} is not for this offer in the name of {terms.origin}")
    if terms.id != name:
        wrong.append(f"{name}: its terms are those of {terms.id}")
    wrong += [f"{name}: {what} shows something else than was signed" for what in _shown_otherwise(exported)]
    if wrong:
        raise AnswerIsNo("\n".join(wrong))
    return f"{name}: signed by {terms.offeror} and {terms.acceptor}, on a mandate of {mandate.origin}"


def _shown_otherwise(exported: Exported) -> list[str]:
    """What is there to be read, and does not say what the signed bytes say."""
    from controller.model.agreement import json_of

    accepted = json_of(exported.acceptance)
    status = exported.status
    pairs: list[tuple[str, Any, Any]] = [("spec", exported.spec, json_of(exported.offer))]
    pairs += [(f"status.{field}", status.get(field), accepted[field]) for field in ("acceptor_end", "latency_us")]
    pairs.append(("status.mandate", status.get("mandate"), json_of(exported.terms.mandate)))
    return [what for what, shown, signed in pairs if shown != signed]


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


def _signed(key: str, envelope: "Envelope") -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    raw_key = _decoded(key)
    if raw_key is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(raw_key).verify(envelope.signature, envelope.signed_bytes)
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
