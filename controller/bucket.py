"""A token bucket: so many a second in the long run, and some at once."""


class Bucket:
    def __init__(self, *, rate: float, burst: int) -> None:
        """`rate`: a second."""
        self._rate = rate
        self._burst = burst
        self._level = float(burst)
        self._filled_s = 0.0

    def wait_s(self, now_s: float, count: int = 1) -> float:
        """Takes so many, and says how long they are not there yet."""
        self._fill(now_s)
        self._level -= count
        return max(0.0, -self._level / self._rate)

    def take(self, now_s: float) -> bool:
        """Takes one, if there is one."""
        self._fill(now_s)
        if self._level < 1:
            return False
        self._level -= 1
        return True

    def _fill(self, now_s: float) -> None:
        self._level = min(self._burst, self._level + max(0.0, now_s - self._filled_s) * self._rate)
        self._filled_s = now_s
