"""Requests that kill: what stages died under is not given to the next stage for a while.

One object without I/O: whoever calls it says what time it is. A request is known by the
fingerprint of its spec, because the one who sends it again gives it another ID. A stage that dies
takes all of its calls along, and one death counts once for each spec among them.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from ..services.runtime.errors import RequestQuarantined


@dataclass(slots=True)
class _Suspect:
    """A spec that stages died under: which deaths those were, and when the last was."""

    deaths: frozenset[Hashable]
    blamed_s: float


class Quarantine:
    """Knows which specs stages have died under of late.

    Args:
        death_limit: deaths after which a spec is refused; 0 refuses none.
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

    def blame(self, fingerprint: str, death: Hashable, now_s: float) -> None:
        """Notes that a stage died while it worked on this spec.

        Args:
            fingerprint: of the spec.
            death: which death it was, the same for everything that died of it.
            now_s: the time.
        """
        self._forget_old(now_s)
        suspect = self._suspects.pop(fingerprint, None)
        deaths = frozenset({death}) if suspect is None else suspect.deaths | {death}
        self._suspects[fingerprint] = _Suspect(deaths, now_s)
        if len(self._suspects) > self._max_known:
            self._suspects.popitem(last=False)

    def suspects(self, fingerprint: str, now_s: float) -> bool:
        """Returns whether a stage has died under this spec of late."""
        self._forget_old(now_s)
        return fingerprint in self._suspects

    def forgive(self, fingerprint: str) -> None:
        """Forgets what is known against a spec: it has just run to its end."""
        self._suspects.pop(fingerprint, None)

    def check(self, fingerprint: str, now_s: float) -> None:
        """Returns if the spec may run.

        Raises:
            RequestQuarantined: too many stages have died under it, too short a time ago.
        """
        self._forget_old(now_s)
        suspect = self._suspects.get(fingerprint)
        if suspect is None or not 0 < self._death_limit <= len(suspect.deaths):
            return
        count, left_s = len(suspect.deaths), suspect.blamed_s + self._duration_s - now_s
        raise RequestQuarantined(
            f"stages died {count} times while they worked on this spec; "
            f"it is not run for another {left_s:.0f} s",
            metadata={"deaths": str(count), "left_s": f"{left_s:.0f}"},
        )

    def _forget_old(self, now_s: float) -> None:
        while self._suspects:
            oldest = next(iter(self._suspects))
            if now_s - self._suspects[oldest].blamed_s < self._duration_s:
                return
            del self._suspects[oldest]
