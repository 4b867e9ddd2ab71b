"""What the intents in force lay claim to, kept from one step to the next."""

import math
from collections.abc import Iterable, Mapping

from controller.fulfillment.claims import Claim, Index, Places
from controller.model.course import Undertaking
from controller.model.intent import Intent
from controller.model.inventory import Inventory


class Held:
    """Claims of what is in force, kept from one step to the next; brought up to date before each use."""

    def __init__(self, inventory: Inventory) -> None:
        self.places = Places(inventory)
        self.index = Index()
        self._seen: dict[str, tuple[Intent, int, int]] = {}
        """What the claim of an intent was made of; the very object."""

    def follow(self, undertakings: Mapping[str, Undertaking]) -> None:
        for name in self.index.claims.keys() - undertakings.keys():
            self.index.drop(name)
            self._seen.pop(name, None)
        for name, one in undertakings.items():
            seen = self._seen.get(name)
            if seen is None or seen[0] is not one.intent or seen[1:] != (one.applied_s, one.serial):
                self.index.add(self._claim(one))
                self._seen[name] = (one.intent, one.applied_s, one.serial)

    def _claim(self, one: Undertaking) -> Claim:
        end_s = one.expires_s if one.expires_s is not None else math.inf
        return self.places.claim(one.intent, serial=one.serial, start_s=one.applied_s, end_s=end_s)

    def forget(self, names: Iterable[str]) -> None:
        """What was only tried out."""
        for name in names:
            self._seen.pop(name, None)
