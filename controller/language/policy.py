"""The policy file of a domain (YAML): which offers it accepts."""

import re
from typing import Any

from controller.language import scalars
from controller.language.fault import Fault, ManifestInvalid
from controller.language.intent import PORT_LIST
from controller.language.shape import Field, Fields, Flaws, ListOf, Scalar
from controller.language.tree import fault_of, load
from controller.model.policy import AcceptRule, Policy, TransitRule

_PATTERN = re.compile(r"[a-z0-9*?./-]{1,200}")


def _pattern(text: str) -> str:
    if not _PATTERN.fullmatch(text):
        raise ValueError(f"{text[:60]!r} is none")
    return text


PATTERN = Scalar(expected="a name or a pattern such as shop/*", make=_pattern)
CODE_POINTS = ListOf(item=scalars.DSCP, most=64)
_DURATION_S = scalars.integer(10, 30 * 86400, "seconds")

ACCEPT = Fields(
    fields={
        "from": Field(shape=PATTERN, to="origin", required=True),
        "source": Field(shape=PATTERN, required=True),
        "to": Field(shape=PATTERN, to="destination", required=True),
        "ports": Field(shape=PORT_LIST),
        "encryption": Field(shape=scalars.ENCRYPTION),
        "direct": Field(shape=scalars.BOOLEAN),
        "dscp": Field(shape=CODE_POINTS),
    },
    make=lambda values: AcceptRule(**values),
)
TRANSIT = Fields(
    fields={
        "from": Field(shape=PATTERN, to="origin", required=True),
        "to": Field(shape=PATTERN, to="destination", required=True),
        "encryption": Field(shape=scalars.ENCRYPTION),
        "max_lease_s": Field(shape=_DURATION_S),
        "dscp": Field(shape=CODE_POINTS),
    },
    make=lambda values: TransitRule(**values),
)
OFFER = Fields(fields={"lease_s": Field(shape=_DURATION_S, required=True)})
NEIGHBOUR = Fields(
    fields={
        "max_agreements": Field(shape=scalars.integer(0, 100_000)),
        "max_share": Field(shape=scalars.integer(1, 100, "percent")),
    }
)


def _policy(values: dict[str, Any]) -> Policy:
    rules = {name: value for name, value in values.items() if name not in ("offer", "neighbour")}
    return Policy(**rules, **values.get("offer", {}), **values.get("neighbour", {}))


POLICY = Fields(
    fields={
        "accept": Field(shape=ListOf(item=ACCEPT)),
        "transit": Field(shape=ListOf(item=TRANSIT)),
        "neighbour": Field(shape=NEIGHBOUR),
        "offer": Field(shape=OFFER),
    },
    make=_policy,
)


def parse_policy(text: str | bytes, file: str) -> Policy:
    """Raises ManifestInvalid. An empty file accepts nothing."""
    trees = load(text, file)
    if not trees:
        return Policy()
    if len(trees) > 1:
        line, column = trees[1].positions[()]
        raise ManifestInvalid((Fault(file=file, line=line, column=column, message="expected one document"),))
    flaws: Flaws = []
    value = POLICY.read(trees[0].data, (), flaws)
    if isinstance(value, Policy):
        return value
    raise ManifestInvalid(tuple(fault_of(flaw, trees[0], file) for flaw in flaws))
