"""What is said with neighbours about agreements, and what follows from it."""
