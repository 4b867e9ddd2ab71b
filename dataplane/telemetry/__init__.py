"""What is counted, and how controllers and Prometheus learn of it."""
