"""Entries that are made together, at one node each: of all of these, what is gone and what is new since before."""

from collections.abc import Collection

import immutables

from controller.fulfillment.contribution import Entries

Placed = tuple[str, Entries]
"""Node and content."""


class Units:
    """Lives for one change; `all` is the value that stays."""

    def __init__(
        self, before: "immutables.Map[str, Placed]", beside: "immutables.Map[str, Placed]", nodes: Collection[str]
    ) -> None:
        """`beside`: what is equal there is the same object here. `nodes`: elsewhere nothing is put."""
        self.all = before
        self._beside, self._nodes = beside, nodes
        self.gone: dict[str, list[Entries]] = {}
        """Of each node."""
        self.new: dict[str, list[Entries]] = {}

    def put(self, unit: str, node: str, content: Entries) -> None:
        before = self.all.get(unit)
        if node not in self._nodes or (before is not None and before[1] == content):
            return
        self.drop(unit)
        known = self._beside.get(unit)
        self.all = self.all.set(unit, known if known is not None and known == (node, content) else (node, content))
        self.new.setdefault(node, []).append(content)

    def drop(self, unit: str) -> None:
        before = self.all.get(unit)
        if before is not None:
            self.all = self.all.delete(unit)
            self.gone.setdefault(before[0], []).append(before[1])

    def change(self, node: str, gone: Entries, new: Entries) -> None:
        """Of what is no unit."""
        if gone:
            self.gone.setdefault(node, []).append(gone)
        if new:
            self.new.setdefault(node, []).append(new)
