"""What is wrong with a topology file, and where."""

import pathlib
from dataclasses import dataclass

Path = tuple[str | int, ...]
"""Of a field: `("links", 3, "delay_ms")`."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    line: int
    column: int
    """Both from 1."""
    text: str


class TopologyInvalid(Exception):
    """The text has a line `file:line:column: problem` for each problem."""

    def __init__(self, path: pathlib.Path, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(f"{path}:{problem.line}:{problem.column}: {problem.text}" for problem in problems))
        self.path = path
        self.problems = problems
