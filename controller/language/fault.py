"""What is wrong with a text that a person wrote, and where."""

import msgspec


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    file: str
    line: int
    """From 1."""
    column: int
    """From 1."""
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class ManifestInvalid(ValueError):
    """A text that is no manifest; all that is wrong with it."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults
