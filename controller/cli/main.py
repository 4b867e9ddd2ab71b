"""`stitch`: the command line of netstitch. Each command is here; what it needs is imported when it runs."""

import itertools
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from controller.cli import completion, config
from controller.cli.errors import AnswerIsNo, CommandFailed, InputInvalid, Unreachable
from controller.cli.kinds import KINDS, MANIFESTS, ROWS, SCHEMA_FILES, plural, reference
from controller.cli.render import Brief, Detail, Output, Tree, Written
from controller.cli.style import SETTINGS

if TYPE_CHECKING:
    from controller.cli.client import Client

_LAB = "lab"
_POLL_S = 1.0
_GLOBAL = ("--domain", "--server", "--token-file", "--fingerprint", "--ca-file", "--lab")


class _Commands(TyperGroup):
    """Imports `stitch lab` (topologies and all) only when it is used or listed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), _LAB]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name != _LAB:
            return super().get_command(ctx, cmd_name)
        from controller.cli import lab

        command = typer.main.get_command(lab.app)
        command.name = _LAB
        return command


app = typer.Typer(
    cls=_Commands,
    help="Stitches networks together from what applications say they need.",
    **{**SETTINGS, "add_completion": True},
)
domain_app = typer.Typer(help="Other domains.", **SETTINGS)
agreement_app = typer.Typer(help="What domains signed.", **SETTINGS)
app.add_typer(domain_app, name="domain")
app.add_typer(agreement_app, name="agreement")
policy_app = typer.Typer(help="Which offers of other domains are accepted.", **SETTINGS)
app.add_typer(policy_app, name="policy")
token_app = typer.Typer(help="Who may use a controller's API.", **SETTINGS)
app.add_typer(token_app, name="token")

Files = Annotated[list[str], typer.Option("-f", "--file", metavar="FILE", help="Manifests, YAML or JSON; - is standard input.")]  # fmt: skip # noqa: E501
OptionalFiles = Annotated[list[str] | None, typer.Option("-f", "--file", metavar="FILE", help="What its manifests name.")]  # fmt: skip # noqa: E501
Wait = Annotated[float | None, typer.Option("--wait", metavar="SECONDS", min=0, help="Wait for the outcome.")]
KindArgument = Annotated[
    str, typer.Argument(metavar="KIND", help=", ".join(KINDS), autocompletion=completion.kind_or_reference)
]
SchemaKind = Annotated[str, typer.Argument(metavar="KIND", help=f"{', '.join((*MANIFESTS, *SCHEMA_FILES))}.")]
Reference = Annotated[str, typer.Argument(metavar="KIND/NAME", autocompletion=completion.references)]
Selector = Annotated[
    str | None,
    typer.Option("-l", "--labels", metavar="LABEL=VALUE,...", help="Only those: app=web, tier!=2, pci, !old."),
]
Phased = Annotated[
    str | None, typer.Option(metavar="PHASE", help="Only those in it.", autocompletion=completion.phases)
]
Tenant = Annotated[str | None, typer.Option(metavar="T", help="Only this tenant's.")]
OutputOption = Annotated[Output, typer.Option("-o", "--output")]
BriefOption = Annotated[Brief, typer.Option("-o", "--output")]
TreeOption = Annotated[Tree, typer.Option("-o", "--output")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what it would do; nothing is stored or sent.")]
DetailOption = Annotated[Detail, typer.Option("-o", "--output", help="Of a dry run: wide and json have entries.")]
WatchOption = Annotated[bool, typer.Option("--watch", help="Go on with what changes.")]


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"stitch {version('netstitch')}")
        raise typer.Exit


@app.callback()
def choose(
    context: typer.Context,
    domain: Annotated[
        str | None,
        typer.Option(help="Which controller of a lab or of the config file.", autocompletion=completion.domains),
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="The controller's REST API: https://HOST:PORT, unix:/PATH.")
    ] = None,
    token_file: Annotated[str | None, typer.Option(metavar="FILE", help="Its bearer token.")] = None,
    fingerprint: Annotated[
        str | None, typer.Option(metavar="SHA256:...", help="Of its certificate (`stitchd fingerprint`).")
    ] = None,
    ca_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="The CA of its certificate, if not of this system.")
    ] = None,
    lab: Annotated[str | None, typer.Option(metavar="NAME", help="Which lab, if several are up.")] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    context.obj = config.Choice(
        domain=domain, server=server, token_file=token_file, lab=lab, fingerprint=fingerprint, ca_file=ca_file
    )


def _client(context: typer.Context) -> "Client":
    from controller.cli.client import Client

    return Client(config.target(context.obj))


@app.command()
def apply(
    context: typer.Context,
    file: Files,
    dry_run: DryRun = False,
    wait: Wait = None,
    output: DetailOption = Detail.TABLE,
) -> None:
    """Create or replace what the manifests say: all of them or none."""
    from controller.cli import changing, preview

    documents = changing.read_documents(file)
    client = _client(context)
    if dry_run:
        preview.show(changing.preview(client, documents), output)
    else:
        changing.apply(client, documents, wait_s=wait)


@app.command()
def diff(context: typer.Context, file: Files, output: DetailOption = Detail.TABLE) -> None:
    """Say how manifests differ from what is stored, and what applying them would do. Exit status 1: they differ."""
    from controller.cli import changing, preview

    documents = changing.read_documents(file)
    client = _client(context)
    answer: Any
    try:
        answer = changing.preview(client, documents)
    except AnswerIsNo as refusal:
        answer = refusal
    preview.diff(client, documents, answer, output)


@app.command()
def intent(
    context: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(metavar="SENTENCE | renew NAME", help="docs/language.md; or English that proposes a sentence."),
    ],
    name: Annotated[str | None, typer.Option(metavar="N", help="Of the intent; else after who and where.")] = None,
    tenant: Annotated[str | None, typer.Option(metavar="T", help="Else the network's name.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether English was understood.")] = False,
    dry_run: DryRun = False,
    wait: Wait = None,
    output: Annotated[Written | None, typer.Option("-o", "--output", help="Print the intent so.")] = None,
) -> None:
    """Say in a sentence what is needed; or let the lease of an intent begin anew (renew NAME)."""
    from controller.cli.intent import state

    match words:
        case [sentence]:
            pass
        case ["renew", one]:
            print(*_client(context).renew(one), sep="\n")
            return
        case _:
            raise InputInvalid('expected one sentence in quotes, or renew NAME: stitch intent "allow ..."')
    state(
        _client(context),
        sentence,
        name=name,
        tenant=tenant,
        yes=yes,
        dry_run=dry_run,
        wait_s=wait,
        output=output,
    )


@app.command()
def get(
    context: typer.Context,
    kind: KindArgument,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", autocompletion=completion.names)] = None,
    labels: Selector = None,
    phase: Phased = None,
    tenant: Tenant = None,
    output: OutputOption = Output.TABLE,
    watch: WatchOption = False,
) -> None:
    """Show resources of a kind, or one."""
    from controller.cli.client import UNPAGED
    from controller.cli.render import show

    if name is None and "/" in kind:
        kinds, name = reference(kind)
    else:
        kinds = plural(kind)
    selection = _selection(labels=labels, phase=phase, tenant=tenant)
    if selection and (name is not None or kinds in UNPAGED):
        raise InputInvalid(f"-l, --phase and --tenant pick from lists of resources, not from {name or kinds}")
    client = _client(context)
    if kinds in ROWS:
        for _ in _rounds(watch):
            show(kinds, _rows(client, kinds, name), output)
    elif watch:
        _follow(client, kinds, name, selection, output)
    else:
        show(kinds, client.resources(kinds, selection)[0] if selection else client.get(kinds, name), output)


def _selection(**given: str | None) -> dict[str, str]:
    return {name: value for name, value in given.items() if value is not None}


def _follow(client: "Client", kind: str, name: str | None, selection: dict[str, str], output: Output) -> None:
    """What is there, then what changes, until somebody ends it."""
    from controller.cli.client import UNPAGED
    from controller.cli.render import Changes

    if kind in UNPAGED:
        raise InputInvalid(f"{kind} cannot be watched; `stitch get {kind}` shows them")
    changes = Changes(kind, output)
    if name is None:
        found, since = client.resources(kind, selection)
    else:
        try:
            found = [client.get(kind, name)]
            since = found[0]["metadata"].get("revision")
        except AnswerIsNo:  # it may come
            found, since = [], None
    changes.show(found)
    for resource in client.watch(kind, name, selection=selection, since=since, known=found):
        if resource is not None:
            changes.show([resource])


def _rows(client: "Client", kind: str, node: str | None) -> list[dict[str, Any]]:
    """Flows and drops have no names; a name is the node's. Raises AnswerIsNo where there is no such node."""
    rows: list[dict[str, Any]] = client.get(kind)
    if node is None:
        return rows
    found = [row for row in rows if row["node"] == node]
    if not found:
        client.get("nodes", node)
    return found


def _rounds(watch: bool) -> Iterator[None]:
    """Once; or again and again, with a pause between."""
    yield
    while watch:
        sys.stdout.flush()
        time.sleep(_POLL_S)
        print()
        yield


@app.command()
def describe(context: typer.Context, what: Reference) -> None:
    """Show everything about one resource."""
    from controller.cli.render import as_yaml
    from controller.cli.times import with_times

    kind, name = reference(what)
    if kind in ROWS:
        raise InputInvalid(f"{kind} have no names to describe; use `stitch get {kind}`")
    resource = _client(context).get(kind, name)
    print(f"{kind}/{name}")
    for part in ("metadata", "spec", "status"):
        text = as_yaml([resource[part]]) if resource[part] else "-\n"
        print(f"\n{part}:\n" + "".join(f"  {with_times(line)}\n" for line in text.splitlines()), end="")


@app.command()
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
    output: DetailOption = Detail.TABLE,
) -> None:
    """Remove resources: all of them or none; an intent is withdrawn."""
    from controller.cli import changing, preview

    words = what or []
    client = _client(context)
    if labels is not None:
        if len(words) != 1 or "/" in words[0]:
            raise InputInvalid("-l picks from all of one kind: stitch delete KIND -l LABEL=VALUE")
        kind = plural(words[0])
        references = [(kind, one["metadata"]["name"]) for one in client.resources(kind, {"labels": labels})[0]]
        if not references:
            print(f"no {kind} have these labels")
            return
    else:
        references = _references(words)
    references += changing.references_of(changing.read_documents(file)) if file else []
    if not references:
        raise InputInvalid("delete what? stitch delete KIND/NAME, or -f FILE")
    if dry_run:
        preview.show(client.preview_delete(references, ignore_not_found=ignore_not_found), output)
    else:
        changing.delete(client, references, wait, ignore_not_found=ignore_not_found)


def _references(words: Sequence[str]) -> list[tuple[str, str]]:
    """`KIND/NAME` each, or one KIND and names of it. Raises InputInvalid."""
    if len(words) > 1 and "/" not in words[0]:
        kind = plural(words[0])
        return [(kind, name) for name in words[1:]]
    return [reference(word) for word in words]


@app.command()
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


@app.command()
def flows(
    context: typer.Context,
    intent: Annotated[str | None, typer.Option(metavar="NAME", help="Only this intent's.")] = None,
    watch: WatchOption = False,
    output: BriefOption = Brief.TABLE,
) -> None:
    """Show what flows: packets and bytes of both directions, as the nodes count them."""
    from controller.cli.render import show

    client = _client(context)
    for _ in _rounds(watch):
        show("flows", client.flows(intent), Output(output))


@app.command()
def events(
    context: typer.Context,
    what: Annotated[str | None, typer.Argument(metavar="[KIND/NAME]", autocompletion=completion.references)] = None,
    output: OutputOption = Output.TABLE,
    watch: WatchOption = False,
) -> None:
    """Show what happened (to one thing, or at all): when, why, and who did it."""
    from controller.cli.render import show

    selection = {} if what is None else {"about": "/".join(reference(what))}
    client = _client(context)
    if watch:
        _follow(client, "events", None, selection, output)
    else:
        show("events", client.resources("events", selection)[0], output)


@app.command()
def explain(context: typer.Context, what: Reference, output: TreeOption = Tree.TREE) -> None:
    """Say why: from an intent down to each node's entries, or from an entry back to the intent."""
    from controller.cli.explain import show_branch

    show_branch(_client(context).explain(*reference(what)), output)


@app.command()
def trace(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SRC", help="A host, NETWORK/HOST or NETWORK/ADDRESS.")],
    destination: Annotated[str, typer.Argument(metavar="DST[:PORT[/PROTO]]", help="A service, host or address.")],
    output: TreeOption = Tree.TREE,
) -> None:
    """Say what the entries do with a packet, hop by hop, in all domains that can be asked."""
    from controller.cli.trace import follow, parse_destination, show_trace

    asked = {"source": source, **parse_destination(destination)}
    show_trace(follow(_client(context), context.obj, asked), output)


@app.command()
def backup(context: typer.Context, file: Annotated[str, typer.Argument(metavar="FILE")]) -> None:
    """Save all that the controller must not forget, but keys and tokens."""
    from controller.cli import backup

    backup.backup(_client(context), file)


@app.command()
def restore(context: typer.Context, file: Annotated[str, typer.Argument(metavar="FILE")]) -> None:
    """Put a backup in place of all that the controller has stored. It starts again with it."""
    from controller.cli import backup

    backup.restore(_client(context), file)


@app.command()
def doctor(context: typer.Context, output: BriefOption = Brief.TABLE) -> None:
    """Say what is well and what is not, and what to do about it."""
    import json

    from controller.cli.doctor import examine
    from controller.cli.render import cell
    from controller.cli.table import table

    seen, reached = examine(_client(context))
    if output is Brief.JSON:
        print(json.dumps(seen, indent=2))
    else:
        rows = [
            ("ok" if one["ok"] else "NOT OK", *(one[field] for field in ("subject", "name", "detail", "advice")))
            for one in seen["checks"]
        ]
        table(("", "SUBJECT", "CHECK", "SEEN", "WHAT TO DO"), [tuple(map(cell, row)) for row in rows])
    if not reached:
        raise Unreachable("doctor: the controller cannot be reached")
    if failed := sum(not one["ok"] for one in seen["checks"]):
        raise AnswerIsNo(f"doctor: {failed} of {len(seen['checks'])} checks failed")


@domain_app.command("add")
def add_domain(
    context: typer.Context,
    name: str,
    key: Annotated[str | None, typer.Option(help="Its Ed25519 public key, base64 (stitchd keygen prints it).")] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Its east-west endpoint, if we talk to it.")
    ] = None,
    certificate: Annotated[str | None, typer.Option(metavar="FILE", help="Its TLS root certificate, PEM.")] = None,
    public: Annotated[
        str | None, typer.Option(metavar="FILE", help="What its `stitchd keygen` printed: key and certificate.")
    ] = None,
    sid_block: Annotated[str | None, typer.Option(metavar="PREFIX", help="Its block in 5f00::/16.")] = None,
    trust: Annotated[str | None, typer.Option(help="public, partner or own.")] = None,
) -> None:
    """Pin another domain's key, and of one that we talk to the endpoint. What is left out stays as it is known."""
    from controller.cli.domain import Pins, manifest

    client = _client(context)
    pins = Pins(key=key, certificate_file=certificate, public_file=public)
    print(*client.apply([manifest(client, name, pins, endpoint, sid_block, trust)]), sep="\n")


@agreement_app.command("end")
def end_agreement(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="As `stitch get agreements` lists them.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; the other domains are told.")],
    hold_off: Annotated[
        int, typer.Option(metavar="SECONDS", min=0, max=86400, help="How long the same intent is not accepted again.")
    ] = 900,
) -> None:
    """End agreements at once, on both sides."""
    if not reason.strip():
        raise InputInvalid("--reason is empty; say why, the other domains are told")
    client = _client(context)
    for name in names:
        print(*client.end_agreement(name, reason, hold_off), sep="\n")


@agreement_app.command("verify")
def verify_agreement(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="From `stitch get agreement NAME -o json`; - is stdin.")],
    key: Annotated[list[str] | None, typer.Option(metavar="DOMAIN=KEY", help="Pinned; else the controller's.")] = None,
) -> None:
    """Check all signatures of an exported agreement: both domains', and the mandate's."""
    from controller.cli import agreement

    agreements = agreement.read_agreements(file)
    keys = agreement.parse_keys(key or [])
    if not all({*found.domains} <= keys.keys() for found in agreements):
        known = _client(context).get("domains")
        keys = {one["metadata"]["name"]: one["spec"].get("key", "") for one in known} | keys
    wrong: list[str] = []
    for found in agreements:
        try:
            print(agreement.verify(found, keys))
        except AnswerIsNo as error:
            wrong.append(str(error))
    if wrong:
        raise AnswerIsNo("\n".join(wrong))


@policy_app.command("reload")
def reload_policy(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would end, or what is wrong.")] = False,
) -> None:
    """Let the controller read its policy file again: what it no longer allows ends; if it is wrong nothing changes."""
    for result in _client(context).reload_policy(dry_run=dry_run):
        print(f"{result} (dry run)" if dry_run else result)


@token_app.command("create")
def create_token(
    context: typer.Context,
    name: str,
    role: Annotated[str, typer.Option(help="admin, operator (of tenants) or reader (of everything, or of tenants).")],
    tenant: Annotated[list[str] | None, typer.Option(metavar="T", help="Whom it acts for; may be given again.")] = None,
    expires: Annotated[str | None, typer.Option(metavar="90d", help="After how long; else never.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the secret there (0600), not to standard output.")
    ] = None,
) -> None:
    """Make a token. Its secret is shown this once."""
    from controller.cli import token

    token.create(_client(context), name, role=role, tenants=tenant or [], expires=expires, out=out)


@token_app.command("list")
def list_tokens(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Show who has one: never the secrets."""
    from controller.cli.render import show

    show("tokens", _client(context).get("tokens"), output)


@token_app.command("revoke")
def revoke_token(context: typer.Context, name: str) -> None:
    """End a token at once, with what is open with it."""
    print(*_client(context).revoke_token(name), sep="\n")


def hoisted(arguments: Sequence[str]) -> list[str]:
    """Global options may stand behind the command too; only `stitch lab` has some of its own of the same name."""
    first: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == _LAB and not rest:
            return list(arguments)
        if argument == "--":
            rest += [argument, *waiting]
        elif argument in _GLOBAL:
            first += [argument, *itertools.islice(waiting, 1)]
        elif argument.startswith(tuple(f"{option}=" for option in _GLOBAL)):
            first.append(argument)
        else:
            rest.append(argument)
    return [*first, *rest]


def main() -> None:
    """Ends the process with the exit status of interfaces.md."""
    try:
        try:
            app(hoisted(sys.argv[1:]), prog_name="stitch")
        finally:
            sys.stdout.flush()  # where who reads us has gone, that is found out here and not at the very end
    except CommandFailed as error:
        sys.stdout.flush()
        _complain(str(error))
        sys.exit(error.status)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # do not complain at exit
        sys.exit(128 + signal.SIGPIPE)


def _complain(text: str) -> None:
    """Lines that name a place in a file stay as they are, so that editors find it."""
    first = text.split(":", 3)
    located = len(first) == 4 and first[1].isdigit() and first[2].isdigit()
    print(text if located else f"stitch: {text}", file=sys.stderr)
