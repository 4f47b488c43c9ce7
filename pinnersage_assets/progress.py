"""Progress of long steps in the log: how far, how fast, how long still."""

import logging
import time
from collections.abc import Callable


def log_progress(log: logging.Logger, unit: str, every_seconds: float = 10.0) -> Callable[[int, int], None]:
    """A callback ``(done, total)`` that logs at most once in a while, and never for a step that is over soon.

    Args:
        log: where to, such as ``context.log``.
        unit: what is counted, such as ``"users"``.
        every_seconds: the least time between two lines.
    """
    started = last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < every_seconds or not done:
            return
        last = now
        rate = done / (now - started)
        pace = f"{rate:,.0f} a second" if rate >= 1 else f"{1 / rate:,.0f} s each"
        log.info(f"{done:,} of {total:,} {unit}, {pace}, {(total - done) / rate:,.0f} s left")

    return report
