"""Errors of a lab. Texts say what, why and what to do."""


class LabError(Exception):
    """The lab could not be made, or does not work any more."""


class LabNotFound(LabError):
    """No such lab is up; or several are and none was named."""


class LabExists(LabError):
    """It is up already."""


class RequestInvalid(LabError):
    """What was asked for cannot be: no such host or link, no such value."""


class NotAllowed(LabError):
    """It needs root."""
