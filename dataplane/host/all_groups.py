"""Interfaces that take frames to every group because we say so, and no longer when they are no port of ours any more.

Hosts ask for the MAC address of an IPv6 address by a group that follows from it, which nobody here has joined. What we
have set is noted, an interface a file, since it stays while no agent runs:

```
STATE_DIR/all-groups/INTERFACE    its index
```
"""

from collections.abc import Collection
from pathlib import Path

from dataplane.host.interface import read_interface, take_all_groups, takes_all_groups


class AllGroups:
    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / "all-groups"

    def take(self, interface: str, index: int) -> bool:
        """Returns whether it was different. Raises OSError."""
        if takes_all_groups(interface):
            return False
        self._directory.mkdir(mode=0o700, exist_ok=True)
        (self._directory / interface).write_text(str(index))  # first, so that it is known whatever happens
        return take_all_groups(interface)

    def give_back(self, ports: Collection[str]) -> tuple[str, ...]:
        """As they were before, but those of `ports`; returns what was different, in words. Raises OSError."""
        changes = []
        for note in sorted(self._directory.glob("*")):
            if note.name in ports:
                continue
            now = read_interface(note.name)
            ours = now is not None and note.read_text() == str(now.index)  # else it is another one of that name
            if ours and take_all_groups(note.name, wanted=False):
                changes.append(f"{note.name} no longer takes frames to all groups")
            note.unlink()
        return tuple(changes)
