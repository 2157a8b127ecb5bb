"""Requests that kill: what stages died under is not given to the next stage for a while.

One object without I/O: whoever calls it says what time it is. A request is known by the
fingerprint of its spec, because the one who sends it again gives it another ID.
"""

from collections import OrderedDict
from dataclasses import dataclass

from ..services.runtime.errors import RequestQuarantined


@dataclass(slots=True)
class _Suspect:
    """A spec that stages died under: how many, and when the last did."""

    death_count: int
    blamed_s: float


class Quarantine:
    """Knows which specs stages have died under of late.

    Args:
        death_limit: deaths after which a spec is refused.
        duration_s: how long a death is remembered, and a spec refused after its last one.
        max_known: specs remembered; the one that was blamed longest ago is forgotten first.
    """

    def __init__(
        self, *, death_limit: int = 2, duration_s: float = 600.0, max_known: int = 1000
    ) -> None:
        self._death_limit = death_limit
        self._duration_s = duration_s
        self._max_known = max_known
        # In the order of the last blame, so that the old ones are at the front.
        self._suspects: OrderedDict[str, _Suspect] = OrderedDict()

    def __len__(self) -> int:
        return len(self._suspects)

    def blame(self, fingerprint: str, now_s: float) -> None:
        """Notes that a stage died while it worked on this spec."""
        self._forget_old(now_s)
        suspect = self._suspects.pop(fingerprint, None)
        deaths = 1 if suspect is None else suspect.death_count + 1
        self._suspects[fingerprint] = _Suspect(deaths, now_s)
        if len(self._suspects) > self._max_known:
            self._suspects.popitem(last=False)

    def check(self, fingerprint: str, now_s: float) -> None:
        """Returns if the spec may run.

        Raises:
            RequestQuarantined: too many stages have died under it, too short a time ago.
        """
        self._forget_old(now_s)
        suspect = self._suspects.get(fingerprint)
        if suspect is None or suspect.death_count < self._death_limit:
            return
        left_s = suspect.blamed_s + self._duration_s - now_s
        raise RequestQuarantined(
            f"{suspect.death_count} stages died while they worked on this spec; "
            f"it is not run for another {left_s:.0f} s",
            metadata={"deaths": str(suspect.death_count), "left_s": f"{left_s:.0f}"},
        )

    def _forget_old(self, now_s: float) -> None:
        while self._suspects:
            oldest = next(iter(self._suspects))
            if now_s - self._suspects[oldest].blamed_s < self._duration_s:
                return
            del self._suspects[oldest]
