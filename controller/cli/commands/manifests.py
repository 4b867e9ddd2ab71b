"""`stitch apply`, `diff`, `delete`, `schema`: what changes with manifests, and what they may say."""

import os
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from controller.cli import completion
from controller.cli.commands.arguments import (
    DetailOption,
    DryRun,
    Files,
    IfMatch,
    OptionalFiles,
    SchemaKind,
    Selector,
    Wait,
    client_of,
)
from controller.cli.errors import AnswerIsNo, InputInvalid
from controller.cli.kinds import SCHEMA_FILES, plural, reference
from controller.cli.render import Detail

MoreFiles = Annotated[list[str] | None, typer.Argument(metavar="[FILE...]")]
"""Without -f, and what a shell makes of `-f *.yaml`."""


def apply(
    context: typer.Context,
    unnamed: MoreFiles = None,
    file: Files = None,
    dry_run: DryRun = False,
    wait: Wait = None,
    if_match: IfMatch = None,
    output: DetailOption = Detail.TABLE,
) -> None:
    """Create or replace what the manifests say: all of them or none."""
    from controller.cli import changing, preview

    files = _named(file, unnamed)
    client = client_of(context)
    documents = changing.read_documents(client, files)
    if dry_run:
        preview.show(changing.preview(client, documents, if_match=if_match), output)
    else:
        changing.apply(client, documents, wait_s=wait, if_match=if_match)


def _named(file: Sequence[str] | None, unnamed: Sequence[str] | None) -> list[str]:
    """Raises InputInvalid where there is none."""
    files = [*(file or ()), *(unnamed or ())]
    if not files:
        raise InputInvalid("which manifests? -f FILE, or -f - for standard input")
    return files


def diff(
    context: typer.Context, unnamed: MoreFiles = None, file: Files = None, output: DetailOption = Detail.TABLE
) -> None:
    """Say how manifests differ from what is stored, and what applying them would do. Exit status 1: they differ."""
    from controller.cli import changing, preview

    files = _named(file, unnamed)
    client = client_of(context)
    documents = changing.read_documents(client, files)
    answer: Any
    try:
        answer = changing.preview(client, documents)
    except AnswerIsNo as refusal:
        answer = refusal
    preview.diff(client, documents, answer, output)


def delete(
    context: typer.Context,
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KIND/NAME...|KIND NAME...]", autocompletion=completion.targets),
    ] = None,
    file: OptionalFiles = None,
    labels: Selector = None,
    ignore_not_found: Annotated[bool, typer.Option("--ignore-not-found", help="What is not there is fine.")] = False,
    wait: Wait = None,
    dry_run: DryRun = False,
    if_match: IfMatch = None,
    output: DetailOption = Detail.TABLE,
) -> None:
    """Remove resources: all of them or none; an intent is withdrawn."""
    from controller.cli import changing, preview

    words = what or []
    if file and (files := [word for word in words if os.path.exists(word)]):
        raise InputInvalid(f"{' '.join(files)}: to delete what several files name, each needs a -f of its own")
    client = client_of(context)
    if labels is not None:
        if len(words) != 1 or "/" in words[0]:
            raise InputInvalid("-l picks from all of one kind: stitch delete KIND -l LABEL=VALUE")
        kind = plural(words[0])
        references = [
            (kind, resource["metadata"]["name"]) for resource in client.resources(kind, {"labels": labels})[0]
        ]
        if not references:
            print(f"no {kind} have these labels")
            return
    else:
        references = _references(words)
    references += changing.references_of(changing.read_documents(client, file)) if file else []
    if not references:
        raise InputInvalid("delete what? stitch delete KIND/NAME, or -f FILE")
    if dry_run:
        told = client.preview_delete(references, ignore_not_found=ignore_not_found, if_match=if_match)
        preview.show(told, output)
    else:
        changing.delete(client, references, wait, ignore_not_found=ignore_not_found, if_match=if_match)


def _references(words: Sequence[str]) -> list[tuple[str, str]]:
    """`KIND/NAME` each, or one KIND and names of it. Raises InputInvalid."""
    if len(words) > 1 and "/" not in words[0]:
        kind = plural(words[0])
        return [(kind, name) for name in words[1:]]
    return [reference(word) for word in words]


def schema(kind: SchemaKind) -> None:
    """Print the JSON Schema of a kind's manifests, or of a file that a program reads."""
    import json

    from controller.cli.file_schema import FILES
    from controller.language import manifest

    if kind in SCHEMA_FILES:
        print(json.dumps(FILES[kind](), indent=2))
        return
    kinds = plural(kind)
    if kinds not in manifest.PLURALS:
        raise InputInvalid(f"{kinds} have no schema; one of {', '.join((*manifest.PLURALS, *FILES))}")
    print(json.dumps(manifest.schema(manifest.PLURALS[kinds]), indent=2))
