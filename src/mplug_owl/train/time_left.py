"""How long a run still takes, by the pace of its latest steps."""

import time
from collections import deque

# Reports whose steps give the pace.
LATEST = 6


class TimeLeft:
    """Seconds until the last of `steps`, for a run that begins now after `first_step` of them."""

    def __init__(self, first_step: int, steps: int) -> None:
        self.steps = steps
        self.reports: deque[tuple[int, float]] = deque([(first_step, time.perf_counter())], maxlen=LATEST)
        self.first_step = first_step

    def after(self, done: int) -> float:
        """Seconds left when so many steps are done. What came before the first report is forgotten: it is slow to begin."""
        self.reports.append((done, time.perf_counter()))
        if len(self.reports) > 2 and self.reports[0][0] == self.first_step:
            self.reports.popleft()
        (step, then), (last, now) = self.reports[0], self.reports[-1]
        return (now - then) / max(1, last - step) * (self.steps - done)
