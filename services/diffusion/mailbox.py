"""What the loop tells one caller: the newest progress and the end, never more.

The loop must not wait for a caller that reads slowly, nor keep for it what it does not read. So
progress that has not been read is replaced by newer progress, and only the end is certain.
"""

import asyncio
from dataclasses import replace

from ..runtime.errors import MeshError
from .jobs import Finished, StepDone


class Mailbox:
    """Holds one unread progress event and one end. For the event loop's thread."""

    def __init__(self) -> None:
        self._progress: StepDone | None = None
        self._end: Finished | MeshError | None = None
        self._filled = asyncio.Event()

    def put(self, step: StepDone) -> None:
        """Replaces unread progress; an unread preview stays until there is a newer one."""
        unread = self._progress
        if step.preview is None and unread is not None and unread.preview is not None:
            step = replace(step, preview=unread.preview)
        self._progress = step
        self._filled.set()

    def end(self, end: Finished | MeshError) -> None:
        """Puts in the end; there is exactly one."""
        assert self._end is None, "a job ends once"
        self._end = end
        self._filled.set()

    async def get(self) -> StepDone | Finished | MeshError:
        """Returns the unread progress, else the end; waits for either."""
        await self._filled.wait()
        if self._progress is not None:
            step, self._progress = self._progress, None
            if self._end is None:
                self._filled.clear()
            return step
        assert self._end is not None
        return self._end
