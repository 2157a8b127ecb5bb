"""When a process that has ended by itself is started again, and when no more.

One object without I/O: whoever calls it says what time it is. A restart waits longer each time, and
a process that keeps ending soon after its start is given up: it will not get better by itself.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How often and how soon.

    Attributes:
        first_delay_s: before the first restart; each further one waits twice as long.
        longest_delay_s: the longest such wait.
        sound_s: a process that has run for so long begins anew with the first delay.
        limit: restarts in a row, none of which ran for that long.
    """

    first_delay_s: float = 0.25
    longest_delay_s: float = 8.0
    sound_s: float = 60.0
    limit: int = 8


class RestartRecord:
    """The restarts of one process.

    Attributes:
        count: restarts in a row.

    Args:
        policy: how often and how soon.
        started_s: when the process was started.
    """

    def __init__(self, policy: RestartPolicy, started_s: float) -> None:
        self._policy = policy
        self._started_s = started_s
        self._ended_s: float | None = None
        self.count = 0

    @property
    def given_up(self) -> bool:
        """Whether it has ended too often."""
        return self._ended_s is not None and self.count >= self._policy.limit

    @property
    def ended(self) -> bool:
        """Whether its end has been noted."""
        return self._ended_s is not None

    def note_end(self, now_s: float) -> float | None:
        """Returns in how many seconds to start it again; None if it is given up."""
        self._ended_s = now_s
        if now_s - self._started_s >= self._policy.sound_s:
            self.count = 0
        return None if self.given_up else self._delay_s

    def is_due(self, now_s: float) -> bool:
        """Returns whether it is time to start it."""
        if self._ended_s is None or self.given_up:
            return False
        return now_s - self._ended_s >= self._delay_s

    def note_start(self, now_s: float) -> None:
        """Notes that it was started again."""
        self._started_s, self._ended_s = now_s, None
        self.count += 1

    @property
    def _delay_s(self) -> float:
        return min(self._policy.longest_delay_s, self._policy.first_delay_s * 2**self.count)
