"""SR Policies (RFC 9256) inside one domain."""

from controller.model.intent import Value


class CandidatePath(Value, frozen=True, kw_only=True):
    """One way from headend to endpoint."""

    preference: int
    """Higher is better (RFC 9256 §2.7)."""
    nodes: tuple[str, ...]
    """From headend to endpoint; both included."""
    links: tuple[str, ...]
    """One less than nodes."""
    latency_us: int
    cost: int = 0


class SrPolicy(Value, frozen=True, kw_only=True):
    """Both directions of the way between two nodes; they take the same links."""

    headend: str
    """Where the traffic's source is."""
    endpoint: str
    candidate_paths: tuple[CandidatePath, ...]
    """Highest preference first. Empty where headend and endpoint are one node."""

    @property
    def latency_us(self) -> int:
        return self.candidate_paths[0].latency_us if self.candidate_paths else 0

    @property
    def cost(self) -> int:
        return self.candidate_paths[0].cost if self.candidate_paths else 0
