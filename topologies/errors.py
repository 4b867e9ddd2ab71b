"""Errors of a lab. Texts say what, why and what to do."""


class LabError(Exception):
    """The lab could not be made, or does not work any more."""


class NotFound(LabError):
    """No such lab is up, or it has no such host, node, link or program."""


class LabExists(LabError):
    """It is up already."""


class RequestInvalid(LabError):
    """What was asked for cannot be, or can be understood in several ways."""


class NotAllowed(LabError):
    """It needs root."""
