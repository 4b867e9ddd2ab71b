"""What of the P4Runtime server outlasts its process: the forwarding-pipeline config and the election ids.

Kept in one file that is replaced as a whole. It belongs to the pinned maps: who makes the maps anew (a start of the
node) discards it, who takes them over reads it (P4Runtime §3.4, §16.2).
"""

import os
from pathlib import Path

import msgspec

from dataplane.decoding import from_json
from dataplane.errors import NodeRefused

FILE_NAME = "p4runtime.json"


class PipelineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    committed: bool = False
    """A controller set our P4Info."""
    cookie: int | None = None
    layout: str = ""
    """Digest of the map layout under which this was written."""
    elections: dict[str, str] = {}
    """The highest election id (decimal; 128 bits) by role."""

    def __post_init__(self) -> None:
        for number in self.elections.values():
            if not (number.isascii() and number.isdecimal() and len(number) <= 39) or int(number) >> 128:
                raise ValueError("an election id is no number of 128 bits")


class PipelineConfigFile:
    def __init__(self, state_dir: Path, layout_digest: str, *, fresh: bool) -> None:
        """`fresh`: the maps are new, so what the file says is void. Raises NodeRefused."""
        self._path = state_dir / FILE_NAME
        self._digest = layout_digest
        self.config = PipelineConfig(layout=layout_digest) if fresh else self._read()
        if fresh:
            self.write(self.config)

    def write(self, config: PipelineConfig) -> None:
        """On disk on return. Raises NodeRefused."""
        temporary = self._path.with_suffix(".new")
        try:
            with temporary.open("wb") as file:
                file.write(msgspec.json.encode(config))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            raise NodeRefused(f"{self._path}: cannot be written: {error.strerror}; is state_dir there?") from error
        self.config = config

    def _read(self) -> PipelineConfig:
        try:
            config = from_json(self._path.read_bytes(), PipelineConfig)
        except FileNotFoundError:
            return PipelineConfig(layout=self._digest)
        except (OSError, msgspec.DecodeError) as error:
            raise NodeRefused(
                f"{self._path}: unreadable: {error}; remove it: the controller then sends all anew"
            ) from error
        if config.layout != self._digest:
            return PipelineConfig(layout=self._digest)
        return config
