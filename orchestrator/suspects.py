"""The quarantine with the real clock, and what it takes to tell the guilty from its neighbours.

When a stage dies, each of its calls may have killed it, and all of them move to the next replica.
If they went there together and it died too, nobody could tell which of them it was. So those whose
spec a stage has died under go through each stage one at a time: the next death is its doing.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager

from .quarantine import Quarantine
from .scheduling.work import StageName


class Suspects:
    """Keeps suspects apart from each other, and refuses what is proven.

    Args:
        quarantine: knows them.
        clock: seconds.
    """

    def __init__(
        self, quarantine: Quarantine, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._quarantine = quarantine
        self._clock = clock
        self._turns: defaultdict[StageName, asyncio.Lock] = defaultdict(asyncio.Lock)

    def check(self, fingerprint: str) -> None:
        """Returns if a spec may run.

        Raises:
            RequestQuarantined: too many stages have died under it.
        """
        self._quarantine.check(fingerprint, self._clock())

    def blame(self, fingerprint: str, death: Hashable) -> None:
        """Notes that a stage died while it worked on a spec.

        Raises:
            RequestQuarantined: it was not the first one.
        """
        self._quarantine.blame(fingerprint, death, self._clock())
        self.check(fingerprint)

    def forgive(self, fingerprint: str) -> None:
        """Forgets what is known against a spec: it has just run to its end."""
        self._quarantine.forgive(fingerprint)

    @asynccontextmanager
    async def apart(self, fingerprint: str, stage: StageName) -> AsyncIterator[None]:
        """Holds off other suspects of a stage while this one is there; others come and go."""
        if not self._suspects(fingerprint):
            yield
            return
        async with self._turns[stage]:
            yield

    def _suspects(self, fingerprint: str) -> bool:
        return self._quarantine.suspects(fingerprint, self._clock())
