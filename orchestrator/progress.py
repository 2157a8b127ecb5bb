"""What a streaming caller sees of a running request, in bounded memory.

A reader that is slower than the mesh gets the newest progress of each picture and every finished
picture: progress merges, pictures do not.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from .pipeline import Picture
from .stages import DenoiseStep


@dataclass(frozen=True, slots=True)
class PictureStep:
    """A denoising step of the picture `index`."""

    index: int
    step: DenoiseStep


class ProgressFeed:
    """Events of one request, written by its pictures and read by one caller."""

    def __init__(self) -> None:
        self._steps: dict[int, DenoiseStep] = {}
        self._pictures: deque[Picture] = deque()
        self._changed = asyncio.Event()
        self._ended = False

    def add_step(self, index: int, step: DenoiseStep) -> None:
        """Replaces the progress of a picture; a preview not yet read stays until a newer one."""
        waiting = self._steps.get(index)
        if step.preview is None and waiting is not None and waiting.preview is not None:
            step = DenoiseStep(step.completed_step_count, step.step_count, waiting.preview)
        self._steps[index] = step
        self._changed.set()

    def add_picture(self, picture: Picture) -> None:
        """Adds a finished picture."""
        self._pictures.append(picture)
        self._changed.set()

    def end(self) -> None:
        """Lets the reader come to its end."""
        self._ended = True
        self._changed.set()

    async def events(self) -> AsyncGenerator[PictureStep | Picture, None]:
        """Yields the events; returns once `end` was called and all are read."""
        while True:
            while self._steps:
                index = next(iter(self._steps))
                yield PictureStep(index, self._steps.pop(index))
            if self._pictures:
                yield self._pictures.popleft()
            elif self._ended:
                return
            elif not self._steps:
                self._changed.clear()
                await self._changed.wait()
