"""Code of others, each in a process of its own that can reach nothing else."""
