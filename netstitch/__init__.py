"""netstitch for programs: what a script imports that talks to a controller."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("netstitch")
