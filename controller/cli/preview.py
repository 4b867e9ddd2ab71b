"""What a dry run says, in words; and `stitch diff`: field by field, how manifests differ from what is stored."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from controller.cli.client import Client, Json
from controller.cli.errors import AnswerIsNo
from controller.cli.render import Detail, cell

if TYPE_CHECKING:
    from controller.language.manifest import Document

NOTHING: Json = {"intents": [], "agreements": [], "nodes": []}
"""Of a change that would do nothing but what its results say."""
REFUSED = ("Unsatisfiable", "Refused")
_SIGNS = (("added", "+"), ("changed", "~"), ("removed", "-"))


def show(answer: Json, detail: Detail) -> None:
    """Raises AnswerIsNo where an intent would not be carried."""
    preview = answer.get("preview") or NOTHING
    if detail is Detail.JSON:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        for result in answer["results"]:
            print(f"{result} (dry run)")
        for line in _lines(preview, wide=detail is Detail.WIDE):
            print(line)
    refuse(preview)


def refuse(preview: Json) -> None:
    """Raises AnswerIsNo where an intent would not be carried."""
    refused = [intent for intent in preview["intents"] if intent["phase"] in REFUSED]
    if refused:
        raise AnswerIsNo("\n".join(f"intents/{intent['name']} would be {intent['phase']}" for intent in refused))


def _lines(preview: Json, *, wide: bool) -> Iterator[str]:
    for intent in preview["intents"]:
        yield cell(_intent(intent))
    for agreement in preview["agreements"]:
        if agreement["what"] != "asked":
            yield cell(f"{agreement['text']} (to {agreement['peer']})")
    for node in preview["nodes"]:
        counts = [f"{len(node[what])} {what}" for what, _ in _SIGNS if node[what]]
        yield f"nodes/{node['node']} entries: {', '.join(counts)}"
        for what, sign in _SIGNS if wide else ():
            for entry in node[what]:
                yield cell(f"  {sign} entries/{entry['name']}: {entry['text']} ({entry['owner']})")
    if any(agreement["what"] == "asked" for agreement in preview["agreements"]):
        yield "entries are counted as if what would be asked for were agreed; no other domain was asked"


def _intent(intent: Json) -> str:
    change = f" (is {intent['before']})" if intent["before"] and intent["before"] != intent["phase"] else ""
    path = f", path {'; '.join(' '.join(path) for path in intent['paths'])}" if intent["paths"] else ""
    latency = f", {intent['latency_ms']:g} ms" if intent["latency_ms"] is not None else ""
    why = f": {'; '.join(intent['reasons'])}" if intent["reasons"] else ""
    return f"intents/{intent['name']} would be {intent['phase']}{change}{path}{latency}{why}"


# ---- stitch diff


def diff(client: Client, documents: Sequence["Document"], answer: Json | AnswerIsNo, detail: Detail) -> None:
    """`answer`: of a dry run, or why it is refused. Raises AnswerIsNo where there is a difference."""
    from controller.language.manifest import PLURALS

    plurals = {kind: plural for plural, kind in PLURALS.items()}
    results = [] if isinstance(answer, AnswerIsNo) else answer["results"][: len(documents)]
    unchanged = {place for place, result in enumerate(results) if result.endswith(" unchanged")}
    differences: list[Json] = []
    for place, document in enumerate(documents):
        kind = plurals[document.kind]
        stored = _stored(client, kind, document.name)
        fields = [] if place in unchanged else _fields(stored, _manifest(document))
        what = "created" if stored is None else "changed" if fields else "unchanged"
        differences.append({"kind": kind, "name": document.name, "what": what, "fields": fields})
    preview = NOTHING if isinstance(answer, AnswerIsNo) else answer.get("preview") or NOTHING
    if detail is Detail.JSON:
        print(json.dumps({"resources": differences, "preview": preview}, indent=2, ensure_ascii=False))
    else:
        for difference in differences:
            print(f"{difference['kind']}/{difference['name']} {difference['what']}")
            for field in difference["fields"]:
                print(f"  {_field(field)}")
        for result in [] if isinstance(answer, AnswerIsNo) else answer["results"][len(documents) :]:
            print(result)
        for line in _lines(preview, wide=detail is Detail.WIDE):
            print(line)
    if isinstance(answer, AnswerIsNo):
        raise answer
    refuse(preview)
    if changed := sum(difference["what"] != "unchanged" for difference in differences):
        raise AnswerIsNo(f"{changed} of {len(differences)} resources differ")


def _stored(client: Client, kind: str, name: str) -> Json | None:
    try:
        stored: Json = client.get(kind, name)
    except AnswerIsNo:
        return None
    return stored


def _manifest(document: "Document") -> Json:
    """With all that is left out in the file, as what is stored has it."""
    from controller.language.manifest import to_manifest

    return to_manifest(document.value)


def _fields(stored: Json | None, wanted: Json) -> list[Json]:
    """Dotted paths at which they differ; what is new has no `before`, what would go no `after`."""
    if stored is None:
        return []
    metadata = {name: value for name, value in stored["metadata"].items() if name != "revision"}
    before = dict(_leaves({"metadata": metadata, "spec": stored["spec"]}))
    after = dict(_leaves({part: wanted[part] for part in ("metadata", "spec")}))
    return [
        {"path": path}
        | ({"before": before[path]} if path in before else {})
        | ({"after": after[path]} if path in after else {})
        for path in dict.fromkeys((*before, *after))
        if before.get(path) != after.get(path) or (path in before) != (path in after)
    ]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Lists of plain values are one value; items of others are known by their name, else by their place."""
    match value:
        case dict() if value:
            for name, part in value.items():
                yield from _leaves(part, f"{path}.{name}" if path else str(name))
        case [dict(), *_]:
            for place, part in enumerate(value):
                name = part.get("name", place) if isinstance(part, dict) else place
                yield from _leaves(part, f"{path}[{name}]")
        case _:
            yield path, value


def _field(field: Json) -> str:
    if "before" not in field:
        return f"+ {field['path']}: {cell(field['after'])}"
    if "after" not in field:
        return f"- {field['path']}: {cell(field['before'])}"
    return f"~ {field['path']}: {cell(field['before'])} -> {cell(field['after'])}"
