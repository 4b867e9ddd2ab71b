"""What the intents in force lay claim to, kept from one step to the next."""

import math
from collections.abc import Iterable

from controller.fulfillment.conflict_index import Claim, Index, Places
from controller.model.intent import Intent
from controller.model.inventory import Inventory
from controller.model.persistent import PersistentMap
from controller.model.stitch import IntentRecord, expired


class ClaimsInForce:
    """Claims of what is in force, kept from one step to the next; brought up to date before each use.

    It is the one thing that changes within a step, and is not undone with it: so who puts an intent, or tries one out,
    or goes back to a state before, says that it is in doubt.
    """

    def __init__(self, inventory: Inventory) -> None:
        self.places = Places(inventory)
        self.index = Index()
        self._seen: dict[str, tuple[Intent, tuple[str, ...], int, int]] = {}
        """What the claim of an intent was made of; the very object."""
        self._doubted: dict[str, None] | None = None
        """Intents whose claim may be another than is here; None: all."""

    def follow(self, intent_records: PersistentMap[IntentRecord]) -> None:
        names = list(intent_records) if self._doubted is None else intent_records.in_order(self._doubted)
        gone = self.index.claims.keys() if self._doubted is None else self._doubted.keys()
        for name in [*gone]:
            if (intent_record := intent_records.get(name)) is None or expired(intent_record):
                self.index.drop(name)
                self._seen.pop(name, None)
        for name in names:
            intent_record = intent_records[name]
            seen = self._seen.get(name)
            chosen = tuple(selection.chosen for selection in intent_record.requirements.selections)
            others = (chosen, intent_record.applied_s, intent_record.serial)
            if expired(intent_record) or (seen and seen[0] is intent_record.intent and seen[1:] == others):
                continue
            self.index.add(self._claim(intent_record))
            self._seen[name] = (intent_record.intent, *others)
        self._doubted = {}

    def _claim(self, intent_record: IntentRecord) -> Claim:
        end_s = intent_record.expires_s if intent_record.expires_s is not None else math.inf
        return self.places.claim(
            intent_record.meant, serial=intent_record.serial, start_s=intent_record.applied_s, end_s=end_s
        )

    def doubt(self, names: Iterable[str]) -> None:
        """Their claims may not be those of what is in force."""
        for name in names:
            self._seen.pop(name, None)
            if self._doubted is not None:
                self._doubted[name] = None
