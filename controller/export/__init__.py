"""What others get of what is measured, unasked."""
