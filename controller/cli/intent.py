"""`stitch intent`: a sentence, or plain English that proposes one, becomes an intent."""

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from controller.cli import changing, preview
from controller.cli.client import Client
from controller.cli.errors import AnswerIsNo, InputInvalid
from controller.cli.render import Detail, Written, as_yaml
from controller.cli.tenant import Tenants

if TYPE_CHECKING:
    from controller.language.manifest import Document
    from controller.model.intent import Allow, Intent


def state(
    client: Client,
    text: str,
    *,
    name: str | None,
    tenant: str | None,
    yes: bool,
    dry_run: bool,
    wait_s: float | None,
    output: Written | None,
) -> None:
    """Raises InputInvalid with the place of the wrong word, or what the answer is."""
    sentence, proposed = _canonical(client, text)
    if proposed and not yes:
        _confirm(sentence)
    document = _document(client, sentence, name, tenant)
    if name is None:
        _refuse_replacing(client, document)
    with contextlib.redirect_stdout(sys.stderr) if output is not None else contextlib.nullcontext():
        if proposed and yes:
            print(f"understood as: {sentence}")
        answer = changing.preview(client, [document]) if dry_run else None
        if answer is None:
            changing.apply(client, [document], wait_s=wait_s)
        else:
            _foresee(answer)
    if output is not None:
        _show(client, document, dry_run, output)
    if answer is not None:
        preview.refuse(answer.get("preview") or preview.NOTHING)


def _foresee(answer: Any) -> None:
    with contextlib.suppress(AnswerIsNo):  # the other forms of the intent come first
        preview.show(answer, Detail.TABLE)


def _canonical(client: Client, text: str) -> tuple[str, bool]:
    """The sentence, and whether it was proposed from other words."""
    from controller.language import english
    from controller.language.fault import ManifestInvalid
    from controller.language.sentence import parse_sentence

    try:
        parse_sentence(text, name="name", tenant="tenant")
    except ManifestInvalid as fault:
        if not english.is_shaped(text):
            first = text.split(maxsplit=1)[:1]
            plain = first and first[0].lower() not in english.CLAUSES
            hint = "\nnor is it English that is understood; docs/language.md has both" if plain else ""
            raise InputInvalid(f"{fault}{hint}") from fault
    else:
        return text, False
    try:
        return english.propose(text, _names(client)), True
    except ManifestInvalid as fault:
        raise InputInvalid(str(fault)) from fault


def _names(client: Client) -> Any:
    """What the controller knows by name."""
    from controller.language.english import Names

    networks: dict[str, set[tuple[str, str]]] = {}
    for network in client.get("networks"):
        attached = [attachment.get("labels", {}) for attachment in network["spec"].get("attachments", ())]
        labels = [network["metadata"].get("labels", {}), *attached]
        networks[network["metadata"]["name"]] = {pair for part in labels for pair in part.items()}
    return Names(
        networks=networks,
        services=[service["metadata"]["name"] for service in client.get("services")],
        domains=[domain["metadata"]["name"] for domain in client.get("domains")],
    )


def _confirm(sentence: str) -> None:
    """Raises InputInvalid where nobody says yes."""
    print(sentence, flush=True)
    if not sys.stdin.isatty():
        raise InputInvalid("these words were only understood as the sentence above: use it, or say --yes")
    print("Is this what is meant? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise AnswerIsNo("nothing was changed")


def _document(client: Client, sentence: str, name: str | None, tenant: str | None) -> "Document":
    from controller.language.fault import ManifestInvalid
    from controller.language.sentence import parse_sentence
    from controller.model.intent import Intent

    try:
        drafted = parse_sentence(sentence, name="name", tenant="tenant")
        assert isinstance(drafted.value, Intent)
        owner = tenant or Tenants(client).of(drafted.data)
        return parse_sentence(sentence, name=name or _name(drafted.value), tenant=owner)
    except ManifestInvalid as fault:
        raise InputInvalid(str(fault)) from fault
    except ValueError as error:
        raise InputInvalid(f"{error}; say it with --tenant") from error


def _name(intent: "Intent") -> str:
    """After who and where: order-processing, customer-x-to-analytics-y."""
    if intent.isolate is not None:
        parts = [intent.isolate.network.rpartition("/")[2], *(value for _, value in intent.isolate.labels)]
        name = parts[-1] if _plain(parts[-1]) else parts[0]
    else:
        source = intent.allow[0].source
        here = source.network.rpartition("/")[2] if source is not None else ""
        name = f"{here[:29]}-to-{_destination(intent.allow[0])[:29]}"
    return name.strip("-.")


def _destination(allow: "Allow") -> str:
    if allow.any is None:
        return allow.to.rpartition("/")[2]
    described = (allow.any.service, *allow.any.capabilities, *(value for _, value in allow.any.labels))
    return next((word.rpartition("=")[2] for word in described if _plain(word.rpartition("=")[2])), "any")


def _plain(text: str) -> bool:
    from controller.language.scalars import NAME

    try:
        NAME.make(text)
    except ValueError:
        return False
    return True


def _refuse_replacing(client: Client, document: "Document") -> None:
    """A name that nobody gave must not replace what somebody else meant."""
    from controller.language.manifest import to_manifest

    try:
        stored = client.get("intents", document.name)
    except AnswerIsNo:
        return
    manifest = to_manifest(document.value)
    if (stored["metadata"].get("tenant"), stored["spec"]) != (manifest["metadata"]["tenant"], manifest["spec"]):
        raise AnswerIsNo(
            f"intents/{document.name} is there already and says something else: "
            f"{stored['status'].get('sentence', '')}\n"
            f"give this one a name (--name), or say --name {document.name} to replace it"
        )


def _show(client: Client, document: "Document", dry_run: bool, output: Written) -> None:
    import json

    from controller.language.manifest import to_manifest
    from controller.language.sentence import print_sentence
    from controller.model.intent import Intent

    resource = to_manifest(document.value) if dry_run else client.get("intents", document.name)
    match output:
        case Written.JSON:
            print(json.dumps(resource, indent=2, ensure_ascii=False))
        case Written.YAML:
            print(as_yaml([resource]), end="")
        case Written.SENTENCE:
            assert isinstance(document.value, Intent)
            print(print_sentence(document.value))
