"""The tables as the agent keeps them in memory, and how their entries lie in BPF maps."""
