"""What is seen of traffic, found unusual in it, and proposed. Pure: numpy, no I/O, no clock."""
