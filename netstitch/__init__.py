"""netstitch for programs: clients of a controller's API.

with netstitch.Client("https://controller.shop.example:7443", token) as shop:
    shop.apply(manifest)
    for change in shop.watch("intents"):
        ...
"""

from importlib.metadata import version

from netstitch.calls import OPERATIONS, Reference, Resource
from netstitch.client import AsyncClient, Client
from netstitch.errors import (
    Conflict,
    Error,
    Gone,
    Invalid,
    NotAllowed,
    NotFound,
    Refused,
    Stale,
    Unavailable,
    Unreachable,
)

__all__ = [
    "OPERATIONS",
    "AsyncClient",
    "Client",
    "Conflict",
    "Error",
    "Gone",
    "Invalid",
    "NotAllowed",
    "NotFound",
    "Reference",
    "Refused",
    "Resource",
    "Stale",
    "Unavailable",
    "Unreachable",
    "__version__",
]

__version__ = version("netstitch")
