"""The file with a domain's policy for the offers of others, read again whenever somebody asks for it."""

from pathlib import Path

from controller import config as configuration
from controller.language.policy import parse_policy
from controller.model.policy import Policy


class PolicyFile:
    """Implements shell.PolicySource."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path

    def read(self) -> Policy:
        """Raises ConfigInvalid or ManifestInvalid."""
        return parse_policy(configuration.read(self._path), self.name)
