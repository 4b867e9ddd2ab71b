VERSION = "0.1.0"
"""Of pyproject.toml."""
