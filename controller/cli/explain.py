"""`stitch explain`: a tree of reasons."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from controller.cli.render import Tree, cell

Json = dict[str, Any]


def show_branch(branch: Json, output: Tree) -> None:
    if output is Tree.JSON:
        print(json.dumps(branch, indent=2, ensure_ascii=False))
        return
    print(_words(branch))
    for line in lines(branch["children"]):
        print(line)


def lines(branches: Sequence[Json], before: str = "") -> Iterator[str]:
    """One a branch; each line stands alone, so that it can be searched."""
    for index, branch in enumerate(branches):
        last = index == len(branches) - 1
        yield f"{before}{'└─ ' if last else '├─ '}{_words(branch)}"
        yield from lines(branch["children"], before + ("   " if last else "│  "))


def _words(branch: Json) -> str:
    """The name says the kind already, where there is one."""
    return cell(f"{branch['name'] or branch['kind']}: {branch['text']}")
