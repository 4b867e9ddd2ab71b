"""The group `main`: what one edge, one agent and the reference lab reach."""

from bench import agent, lab, xdp
from bench.report import Row


def rows() -> list[Row]:
    return [*xdp.rows(), *agent.rows(), *lab.rows()]
