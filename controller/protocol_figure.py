"""The figures of docs/agreements.md, from the tables that controllers go by: what neighbours say, and a plan's life.

`python -m controller.protocol_figure` writes them, with `--check` it only says whether they are up to date.
"""

import sys
from pathlib import Path

from controller.fulfillment.protocol import PROTOCOL, Reaction, Role, Word
from controller.model.stitch import LIFE

FILE = Path(__file__).parents[1] / "docs" / "agreements.md"
BEGIN, END = "<!-- {}: made by python -m controller.protocol_figure -->\n", "<!-- end of {} -->\n"
WIDTH = 24


def protocol() -> str:
    """What changes something, or is answered; in the order of the table."""
    lines = [f" before   {'offeror':<{WIDTH - 10}}{'acceptor':>12}   after     what who hears it does"]
    silent: dict[Word, list[str]] = {}
    for (speaker, standing, said), (after, reaction) in PROTOCOL.items():
        if reaction == Reaction.NOTHING and after == standing:
            silent.setdefault(said, []).append(standing)
            continue
        both = all((role, standing, said) in PROTOCOL for role in Role)
        if both and speaker == Role.ACCEPTOR:
            continue
        lines.append(f" {standing:<8} {_arrow(speaker, said, both)} {after:<9} {reaction}")
    lines += [""]
    for said, standings in silent.items():
        lines.append(f" {said}: nothing follows from it where it is {' or '.join(dict.fromkeys(standings))}")
    return _block(lines)


def _arrow(speaker: Role, said: Word, both: bool) -> str:
    left = "◀" if both or speaker == Role.ACCEPTOR else "─"
    right = "▶" if both or speaker == Role.OFFEROR else "─"
    return left + f" {said} ".center(WIDTH - 2, "─") + right


def life() -> str:
    return _block([f" {stage:<11} ──▶ {after:<10} {fact}" for (stage, fact), after in LIFE.items()])


def _block(lines: list[str]) -> str:
    return "```\n" + "".join(f"{line.rstrip()}\n" for line in lines) + "```\n"


FIGURES = {"protocol": protocol, "life": life}


def with_figures(text: str) -> str:
    for name, figure in FIGURES.items():
        before, _, rest = text.partition(BEGIN.format(name))
        _, _, after = rest.partition(END.format(name))
        text = before + BEGIN.format(name) + figure() + END.format(name) + after
    return text


def main(arguments: list[str]) -> int:
    text = FILE.read_text()
    if arguments == ["--check"]:
        if with_figures(text) == text:
            return 0
        print(f"{FILE.name} is not up to date: python -m controller.protocol_figure", file=sys.stderr)
        return 1
    FILE.write_text(with_figures(text))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
