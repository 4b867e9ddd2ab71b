"""Differentiated Services code points (RFC 2474), by name."""

CODE_POINTS = {
    "CS0": 0, "CS1": 8, "CS2": 16, "CS3": 24, "CS4": 32, "CS5": 40, "CS6": 48, "CS7": 56,
    "AF11": 10, "AF12": 12, "AF13": 14, "AF21": 18, "AF22": 20, "AF23": 22,
    "AF31": 26, "AF32": 28, "AF33": 30, "AF41": 34, "AF42": 36, "AF43": 38, "EF": 46, "LE": 1,
}  # fmt: skip
"""RFC 2474, RFC 2597, RFC 3246, RFC 8622."""
_NAMES = {value: name for name, value in CODE_POINTS.items()}


def words(code_point: int) -> str:
    """Its name, or where it has none the number."""
    return _NAMES.get(code_point, str(code_point))
