"""Who is meant, as text: `shop/customer-x app=order-processing 10.1.0.0/28`. Manifests and sentences write it so."""

import json
import re

from controller.language import scalars
from controller.language.shape import Field, Fields, Labels, ListOf, Scalar, Shape, TextOr, label_flaw
from controller.model.intent import Selector

_PART = re.compile(r'[^\s="]+(?:=(?:"(?:[^"\\]|\\.)*"|[^\s"]+))?')
_PLAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
"""A label's value that needs no quotes."""
EXPECTED = "a network and what selects in it, such as shop/customer-x app=web"


def parse_label(text: str) -> tuple[str, str]:
    """`app=web`, or `app="front end"` with JSON's escapes. Raises ValueError."""
    name, _, value = text.partition("=")
    if value.startswith('"'):
        try:
            decoded: str = json.loads(value)
        except ValueError as error:
            raise ValueError(f'{value[:60]!r} is no quoted text: write \\" and \\\\ inside') from error
        value = decoded
    if flaw := label_flaw(name, value):
        raise ValueError(flaw)
    return name, value


def print_label(name: str, value: str) -> str:
    return f"{name}={value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)}"


def make_selector(network: str, labels: list[tuple[str, str]], prefixes: list[str]) -> Selector:
    """Raises ValueError."""
    given = dict(labels)
    if len(given) < len(labels):
        twice = next(name for name in given if sum(name == label_name for label_name, _ in labels) > 1)
        raise ValueError(f"label {twice!r} is given twice; all labels of a selector must match")
    return Selector(network=network, labels=tuple(sorted(given.items())), prefixes=tuple(prefixes))


def parse_selector(text: str) -> Selector:
    """Raises ValueError."""
    parts = _PART.findall(text)
    if not parts or _PART.sub("", text).strip():
        raise ValueError(f"{text[:80]!r} selects nothing")
    labels: list[tuple[str, str]] = []
    prefixes: list[str] = []
    for part in parts[1:]:
        if "=" in part:
            labels.append(parse_label(part))
        else:
            prefixes.append(scalars.PREFIX.make(part))
    return make_selector(scalars.NETWORK_NAME.make(parts[0]), labels, prefixes)


def print_selector(selector: Selector) -> str:
    labels = (print_label(name, value) for name, value in selector.labels)
    return " ".join((selector.network, *labels, *selector.prefixes))


SELECTOR: Shape = TextOr(
    text=Scalar(expected=EXPECTED, make=parse_selector),
    mapping=Fields(
        fields={
            "network": Field(shape=scalars.NETWORK_NAME, required=True),
            "select": Field(shape=Labels(), to="labels"),
            "prefixes": Field(shape=ListOf(item=scalars.PREFIX, most=64)),
        },
        make=lambda values: Selector(**values),
    ),
)
