"""What a shell proposes: kinds, and names that the controller knows. Quick, and silent where there is none to ask."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer
from typer import _completion_shared

from controller.cli import config
from controller.cli.errors import CommandFailed
from controller.cli.kinds import KINDS, MANIFESTS, ROWS, plural

if TYPE_CHECKING:
    from topologies.record import LabRecord

PATIENCE_S = 1.0
NAMES = 500

_BASH = """
%(complete_func)s() {
    local IFS=$'\n' typed=${COMP_LINE:0:COMP_POINT} breaks=${COMP_WORDBREAKS//[^:=]}
    local word=${typed##*[[:space:]]}
    COMPREPLY=( $( env _TYPER_COMPLETE_ARGS="$typed" _TYPER_COMPLETE_FISH_ACTION=get-args \\
                   %(autocomplete_var)s=complete_fish $1 | cut -f 1 ) )
    if [[ $breaks && $word == *[$breaks]* ]]; then
        COMPREPLY=( "${COMPREPLY[@]#"${word%%"${word##*[$breaks]}"}"}" )
    fi
}

complete -o default -F %(complete_func)s %(prog_name)s
"""
"""For bash what stands behind a `:` or `=` is a word of its own, and names have both: `shop:orders:1`. So what was
typed is given as it stands, as Typer takes it from fish, and bash gets what is behind the last of these.
"""
_completion_shared._completion_scripts["bash"] = _BASH

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


def agreements(context: typer.Context, incomplete: str) -> list[str]:
    return list(_names(context, "agreements", incomplete))


def nodes(context: typer.Context, incomplete: str) -> list[str]:
    return list(_names(context, "nodes", incomplete))


def hosts(context: typer.Context, incomplete: str) -> list[str]:
    return list(_names(context, "hosts", incomplete))


def networks(context: typer.Context, incomplete: str) -> list[str]:
    return list(_names(context, "networks", incomplete))


def links(context: typer.Context, incomplete: str) -> list[str]:
    return list(_names(context, "links", incomplete))


def tokens(context: typer.Context, incomplete: str) -> list[str]:
    return list(_names(context, "tokens", incomplete))


def renewals(context: typer.Context, incomplete: str) -> list[str]:
    """For `stitch intent`: a sentence is one's own, but what is renewed has a name."""
    if context.params.get("words") == ["renew"]:
        return list(_names(context, "intents", incomplete))
    return [word for word in ("renew",) if incomplete and word.startswith(incomplete)]


def labs(incomplete: str) -> list[str]:
    from topologies import lab

    return [record.lab for record in lab.running() if record.lab.startswith(incomplete)]


def lab_places(context: typer.Context, incomplete: str) -> list[str]:
    """Hosts and nodes."""
    return [place for record in _lab(context) for place in record.namespaces if place.startswith(incomplete)]


def lab_processes(context: typer.Context, incomplete: str) -> list[str]:
    """Nodes, of which it is the agent, and domains, of which it is the controller."""
    names = [daemon.name for record in _lab(context) for daemon in record.daemons]
    return [name for name in names if name.startswith(incomplete)]


def _lab(context: typer.Context) -> "tuple[LabRecord, ...]":
    """The one that is meant, if it is up."""
    from topologies import lab
    from topologies.errors import LabError

    try:
        return (lab.find(context.params.get("name") or context.find_root().params.get("lab")),)
    except LabError:
        return ()


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
