"""The pipeline written plainly: the oracle that every implementation is compared with. Not for forwarding."""

from dataplane.reference.pipeline import Pipeline, Port
from dataplane.reference.verdict import Cut, Drop, Forward, Pass, Punt, Verdict

__all__ = ["Cut", "Drop", "Forward", "Pass", "Pipeline", "Port", "Punt", "Verdict"]
