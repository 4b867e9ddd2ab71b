"""Findings that are not yet enough to be an incident."""

from controller.model.finding import Finding
from controller.model.intent import Value

KEPT = 16


class Suspicion(Value, frozen=True, kw_only=True):
    """Of one thing; the newest last."""

    findings: tuple[Finding, ...] = ()
    times_s: tuple[float, ...] = ()

    def with_one(self, finding: Finding, now_s: float, seconds: float) -> "Suspicion":
        """With one more, without those that are older than `seconds`."""
        first = next(
            (place for place, time_s in enumerate(self.times_s) if time_s >= now_s - seconds), len(self.times_s)
        )
        first = max(first, len(self.times_s) + 1 - KEPT)
        return Suspicion(findings=(*self.findings[first:], finding), times_s=(*self.times_s[first:], now_s))

    @property
    def seconds(self) -> int:
        """In how many windows it was seen."""
        return len({finding.at_s for finding in self.findings})
