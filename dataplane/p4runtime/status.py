"""Refusals of P4Runtime requests, with the canonical codes of google.rpc (P4Runtime §10)."""

import enum
from dataclasses import dataclass

from dataplane.errors import RequestInvalid


class Code(enum.IntEnum):
    """google.rpc.Code, as far as this server gives them."""

    OK = 0
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13


@dataclass(frozen=True, slots=True)
class Fault:
    """Why one update of a batch was not done."""

    code: Code
    message: str


class Refused(RequestInvalid):
    """A request, or one update or entity of it, that this server does not do."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(code, message)
