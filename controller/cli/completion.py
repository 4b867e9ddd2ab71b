"""What a shell proposes: kinds, and names that the controller knows. Quick, and silent where there is none to ask."""

from collections.abc import Iterator

import typer
from typer import _completion_shared

from controller.cli import config
from controller.cli.errors import CommandFailed
from controller.cli.kinds import KINDS, MANIFESTS, ROWS, plural

PATIENCE_S = 1.0
NAMES = 500

_FIRST_TAB = """
if [[ "$funcstack[1]" == "_%(prog_name)s" ]]; then %(complete_func)s "$@"; fi
"""
"""zsh loads the script at the first Tab, and Typer's then only defines the function: this calls it too."""
_completion_shared._completion_scripts["zsh"] = _completion_shared.COMPLETION_SCRIPT_ZSH + _FIRST_TAB


def kinds(incomplete: str) -> list[str]:
    return [kind for kind in KINDS if kind.startswith(incomplete.lower())]


def phases(context: typer.Context, incomplete: str) -> list[str]:
    """Of the kind that is there already; it is no parameter yet, as the option still lacks its value."""
    from controller.model.phases import PHASES

    try:
        known = PHASES.get(plural(context.args[0] if context.args else "intents"), ())
    except CommandFailed:
        return []
    return [phase for phase in known if phase.lower().startswith(incomplete.lower())]


def kind_or_reference(context: typer.Context, incomplete: str) -> list[str]:
    return references(context, incomplete) if "/" in incomplete else kinds(incomplete)


def references(context: typer.Context, incomplete: str) -> list[str]:
    """`KIND/NAME`; first the kinds, with a slash."""
    kind, slash, name = incomplete.partition("/")
    if not slash:
        return [f"{manifest}/" for manifest in MANIFESTS if manifest.startswith(kind.lower())]
    return [f"{kind}/{reference}" for reference in _names(context, kind, name)]


def names(context: typer.Context, incomplete: str) -> list[str]:
    """Of the kind that is there already."""
    kind = context.params.get("kind")
    return list(_names(context, kind, incomplete)) if isinstance(kind, str) and "/" not in kind else []


def intents(context: typer.Context, incomplete: str) -> list[str]:
    return list(_names(context, "intents", incomplete))


def targets(context: typer.Context, incomplete: str) -> list[str]:
    """For `stitch delete`: KIND/NAME, or names of the KIND that stands first."""
    words = context.params.get("what") or []
    if words and "/" not in words[0]:
        return list(_names(context, words[0], incomplete))
    return references(context, incomplete)


def domains(context: typer.Context, incomplete: str) -> list[str]:
    try:
        return [domain for domain in config.domains(_choice(context)) if domain.startswith(incomplete)]
    except CommandFailed:
        return []


def _names(context: typer.Context, kind: str, start: str) -> Iterator[str]:
    from controller.cli.client import UNPAGED, Client

    try:
        wanted = plural(kind)
        if wanted in ROWS:
            return
        client = Client(config.target(_choice(context)), connect_timeout_s=PATIENCE_S, answer_timeout_s=PATIENCE_S)
        resources = client.get(wanted) if wanted in UNPAGED else client.page(wanted, NAMES)
    except CommandFailed:
        return
    yield from (
        str(resource["metadata"]["name"])
        for resource in resources
        if str(resource["metadata"]["name"]).startswith(start)
    )


def _choice(context: typer.Context) -> config.Choice:
    given = context.find_root().params
    fields = ("domain", "server", "token_file", "fingerprint", "ca_file", "lab")
    return config.Choice(**{field: given.get(field) for field in fields})
