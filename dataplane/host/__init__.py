"""What the agent needs of its host: ports, neighbours, the kernel's settings and firewall."""
