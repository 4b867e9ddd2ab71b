"""Code of others that is found by its entry point."""

from controller.model.intent import Value


class Plugin(Value, frozen=True, kw_only=True):
    name: str
    group: str
    version: str
    origin: str
    """Its distribution, and what it loads: `netstitch-example-plugin example:Voice`."""

    def __str__(self) -> str:
        return f"plugin {self.name} ({self.origin} {self.version})"
