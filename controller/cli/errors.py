"""Why a command ends without having done what was asked. Texts say what, where, why, and what to do."""

NO, INVALID, UNREACHABLE, NOT_ALLOWED = 1, 2, 3, 4
"""Exit status (interfaces.md)."""


class CommandFailed(Exception):
    status = NO


class AnswerIsNo(CommandFailed):
    """Unsatisfiable, refused, conflict, check failed, not found."""


class InputInvalid(CommandFailed):
    status = INVALID


class Unreachable(CommandFailed):
    status = UNREACHABLE


class NotAllowed(CommandFailed):
    status = NOT_ALLOWED
