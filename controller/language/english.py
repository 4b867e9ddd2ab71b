"""A few shapes of plain English that propose a sentence. They never decide: what is proposed is shown and confirmed.

    all traffic related to WHO must be isolated but requires access to WHERE
    WHO must be isolated [but needs WHERE]
    keep WHO away from everything except WHERE
    WHO may only reach WHERE
    WHO needs access to WHERE
    WHO must be able to reach WHERE
    WHO can talk to WHERE
    allow WHO to reach WHERE
    give WHO access to WHERE
    let WHO use WHERE

WHO is a network and values of labels of its hosts ("customer-x order-processing"), WHERE a service or network; both
by any part of their names that is unique in the inventory. After any shape may follow: `within 20 ms`, `encrypted`,
`end-to-end encrypted`, `with at least 50 Mbps`, `with less than 0.1 % loss`, `over trusted networks only`,
`avoiding DOMAIN`, `through SERVICE`, `on tcp/443 and icmp`, `for 30 days`.
"""

import re
from collections.abc import Collection, Mapping

import msgspec

from controller.language.fault import Fault, ManifestInvalid
from controller.language.selector import print_label
from controller.language.sentence import FILE
from controller.language.shape import nearest

_MOST = 300
"""Characters."""


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """What can be named."""

    networks: Mapping[str, Collection[tuple[str, str]]]
    """Network -> labels of it and its hosts."""
    services: Collection[str]
    domains: Collection[str]


class NoEnglish(ValueError):
    """None of the shapes; what was written is no proposal's business."""


_REACH = r"(?:reach|access|use|call|talk to|connect to|speak to|communicate with)"
_NEEDS = (
    r"(?:needs?|requires?|wants?|gets?|has|have|may have|must have|can have)(?: to have)? access to"
    rf"|(?:needs? to|requires? to|must be able to|has to|have to|may|can|must|should) {_REACH}"
    r"|requires?|needs?"
)
_WHO = r"(?:all )?(?:(?:the )?traffic (?:related to|of|from|for) )?(?P<who>.+?)"
_ISOLATED = r"(?:must|should|shall|has to|have to|needs? to)? ?(?:be|is|are|stay|remain|keep)(?: kept)?(?: fully| completely)? isolated(?: from (?:everything|everybody|all) ?(?:else)?)?"  # noqa: E501
_BUT = r"(?:,|,? ?(?:but|and|yet|except that it|except))"
_SHAPES: tuple[tuple[bool, re.Pattern[str]], ...] = tuple(
    (isolates, re.compile(pattern))
    for isolates, pattern in (
        (True, rf"{_WHO} {_ISOLATED}{_BUT} (?:it )?(?:still )?(?:{_NEEDS}) (?P<where>.+)"),
        (True, rf"{_WHO} {_ISOLATED}"),
        (True, r"(?:isolate|keep) (?P<who>.+?)(?: away)? from (?:everything|all)(?: else)?(?:,? (?:except|but)(?: for)? (?P<where>.+))?"),  # noqa: E501
        (True, rf"isolate (?P<who>.+?){_BUT} (?:it )?(?:allow|{_NEEDS}) (?P<where>.+)"),
        (True, rf"{_WHO} (?:may|can|must|should) only {_REACH} (?P<where>.+)"),
        (False, rf"(?:please )?(?:allow|let|permit) (?P<who>.+?) (?:to )?(?:{_REACH}) (?P<where>.+)"),
        (False, r"(?:please )?(?:give|grant) (?P<who>.+?) access to (?P<where>.+)"),
        (False, rf"{_WHO} (?:{_NEEDS}) (?P<where>.+)"),
    )
)  # fmt: skip
_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_LINK = r"(?:,| and|,? with|,? but| with)?"
_EXTRAS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(rf"{_LINK} {pattern}(?=,| |$)"))
    for kind, pattern in (
        ("latency", rf"(?:with)?(?:in|under|below|at most|less than|in less than|(?:a )?latency (?:under|below|of at most)) {_NUMBER} ?(us|ms|milliseconds?|s|seconds?)(?: latency)?"),  # noqa: E501
        ("bandwidth", rf"(?:with )?at least {_NUMBER} ?([kmgt]bps|[kmgt]bit/s)(?: of bandwidth)?"),
        ("loss", rf"(?:with )?(?:less than|at most|under|below) {_NUMBER} ?(?:%|percent)(?: of)?(?: packet)? loss"),
        ("end-to-end", r"(?:end-to-end encrypted|encrypted end-to-end|encrypted from end to end)"),
        ("encrypted", r"(?:always )?(?:encrypted|over wireguard|inside wireguard)"),
        ("trust", r"(?:only )?over (?:trusted|partner) (?:networks|links|domains)(?: only)?"),
        ("avoid", r"(?:avoiding|not (?:through|over)|without passing) ([a-z0-9.-]+)"),
        ("via", r"(?:through|via|passing) (?:the |a )?([a-z0-9./-]+)"),
        ("ports", r"on ((?:(?:tcp|udp)(?:/[0-9-]+)?|icmp)(?:(?:,| and|, and) (?:(?:tcp|udp)(?:/[0-9-]+)?|icmp))*)"),
        ("for", r"for (?:the next )?([0-9]+) ?(days?|hours?|minutes?|weeks?)"),
    )
)  # fmt: skip
_UNITS = {"millisecond": "ms", "milliseconds": "ms", "second": "s", "seconds": "s"}
_RATES = {"k": "Kbps", "m": "Mbps", "g": "Gbps", "t": "Tbps"}


CLAUSES = frozenset(
    "isolate allow via require prefer on priority class overrides suspends remediation for until test".split()  # noqa: SIM905
)
"""How clauses of the sentence language begin."""


def is_shaped(text: str) -> bool:
    """It has one of the shapes, whatever the names in it, and nothing that only sentences have."""
    if any(sign in text for sign in ";<>"):
        return False
    words = _normal(text)
    rest, _ = _extras(words) if len(words) <= _MOST else ("", {})
    return any(shape.fullmatch(rest) for _, shape in _SHAPES)


def _normal(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".! ")


def propose(text: str, names: Names) -> str:
    """The sentence that `text` seems to mean. Raises NoEnglish, or ManifestInvalid where a name is not known."""
    words = _normal(text)
    if len(words) > _MOST:
        raise NoEnglish(f"plain English is read up to {_MOST} characters")
    rest, extras = _extras(words)
    for isolates, shape in _SHAPES:
        match = shape.fullmatch(rest)
        if match is None:
            continue
        who = _who(match["who"], text, names)
        where = match.groupdict().get("where")
        ports = "".join(f" {port}" for port in re.findall(r"(?:tcp|udp)(?:/[0-9-]+)?|icmp", extras.get("ports", "")))
        target = f"allow {_where(where, text, names)}{ports}" if where else ""
        first = [f"isolate {who}", target] if isolates else [f"{target} from {who}"]
        return "; ".join(clause for clause in (*first, *_clauses(extras, text, names)) if clause)
    raise NoEnglish("none of the shapes that are known")


def _extras(words: str) -> tuple[str, dict[str, str]]:
    """What is left without what may follow a shape, and that."""
    extras: dict[str, str] = {}
    for kind, pattern in _EXTRAS:
        match = pattern.search(words)
        if match is not None and kind not in extras and not (kind == "encrypted" and "end-to-end" in extras):
            extras[kind] = " ".join(match.groups())
            words = (words[: match.start()] + words[match.end() :]).strip()
    return words.rstrip(", "), extras


def _clauses(extras: Mapping[str, str], text: str, names: Names) -> list[str]:
    needs = []
    if "latency" in extras:
        number, unit = extras["latency"].split()
        needs.append(f"latency <= {number}{_UNITS.get(unit, unit)}")
    if "bandwidth" in extras:
        number, unit = extras["bandwidth"].split()
        needs.append(f"bandwidth >= {number}{_RATES[unit[0]]}")
    if "loss" in extras:
        needs.append(f"loss <= {extras['loss']}%")
    if "end-to-end" in extras:
        needs.append("encryption wireguard-end-to-end")
    elif "encrypted" in extras:
        needs.append("encryption wireguard")
    if "trust" in extras:
        needs.append("trust >= partner")
    if "avoid" in extras:
        needs.append(f"avoid domains {_only(extras['avoid'], names.domains, 'domain', text)}")
    clauses = [f"via {extras['via']}"] if "via" in extras else []
    clauses += [f"require {', '.join(needs)}"] if needs else []
    if "for" in extras:
        number, unit = extras["for"].split()
        clauses.append(f"for {int(number) * 7}d" if unit.startswith("week") else f"for {number}{unit[0]}")
    return clauses


def _who(phrase: str, text: str, names: Names) -> str:
    """A network, and labels whose values are named, as a selector."""
    words = re.sub(r"\b(?:the|of|in|and|'s|s'|hosts?|traffic)\b", " ", phrase.replace("'s ", " ")).split()
    if not words:
        raise _unknown(phrase, "network", names.networks, text)
    networks = {word: _matches(word, names.networks) for word in words}
    named = [word for word in words if networks[word]]
    if not named:
        return _by_labels(words, text, names)
    network = _only(named[0], names.networks, "network", text)
    labels = [_label(word, network, text, names) for word in words if word != named[0]]
    return " ".join((network, *(print_label(*label) for label in sorted(set(labels)))))


def _by_labels(words: list[str], text: str, names: Names) -> str:
    """The network that alone has all of them."""
    fitting = [
        network
        for network, labels in names.networks.items()
        if all(word in {value for _, value in labels} for word in words)
    ]
    if len(fitting) != 1:
        raise _unknown(words[0], "network", names.networks, text)
    labels = [_label(word, fitting[0], text, names) for word in words]
    return " ".join((fitting[0], *(print_label(*label) for label in sorted(set(labels)))))


def _label(word: str, network: str, text: str, names: Names) -> tuple[str, str]:
    labels = sorted(label for label in names.networks[network] if word in (label[1], f"{label[0]}={label[1]}"))
    if not labels:
        values = sorted({value for _, value in names.networks[network]})
        raise _unknown(word, f"label of {network}", values, text)
    if len(labels) > 1:
        either = " or ".join(print_label(*label) for label in labels)
        raise _fault(word, f"{word!r} may be {either} of {network}: write which", text)
    return labels[0]


def _where(phrase: str, text: str, names: Names) -> str:
    word = re.sub(r"^(?:the |service |network )+| (?:service|network)$", "", phrase.strip())
    if _matches(word, names.services):
        return _only(word, names.services, "service", text)
    if _matches(word, names.networks):
        return _only(word, names.networks, "network", text)
    raise _unknown(word, "service or network", [*names.services, *names.networks], text)


def _matches(word: str, known: Collection[str]) -> list[str]:
    """By the whole name, or its last parts."""
    if word in known:
        return [word]
    return sorted(name for name in known if name.endswith(f"/{word}"))


def _only(word: str, known: Collection[str], what: str, text: str) -> str:
    matches = _matches(word, known)
    if not matches:
        raise _unknown(word, what, known, text)
    if len(matches) > 1:
        raise _fault(word, f"{word!r} may be {' or '.join(matches)}: write which {what}", text)
    return matches[0]


def _unknown(word: str, what: str, known: Collection[str], text: str) -> ManifestInvalid:
    short = sorted({name.rpartition("/")[2] for name in known} | set(known))
    hint = nearest(word, short) if known else "; none is known here"
    return _fault(word, f"unknown {what} {word!r}{hint}", text)


def _fault(word: str, message: str, text: str) -> ManifestInvalid:
    at = max(text.lower().find(word), 0)
    line, column = text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1) + 1
    return ManifestInvalid((Fault(file=FILE, line=line, column=column, message=message),))
