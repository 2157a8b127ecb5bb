"""What streaming callers see of a running request, in bounded memory.

A reader that is slower than the mesh gets the newest progress of each picture and every finished
picture: progress merges, pictures do not. Each reader has its own place, and one that comes late
begins with where things are.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .pipeline import Picture
from .stages import DenoiseStep


@dataclass(frozen=True, slots=True)
class PictureStep:
    """A denoising step of the picture `index`."""

    index: int
    step: DenoiseStep


class ProgressFeed:
    """Events of one request, written by its pictures and read by any number of callers."""

    def __init__(self) -> None:
        # By picture: the newest step, and the newest with a preview.
        self._steps: dict[int, DenoiseStep] = {}
        self._previews: dict[int, DenoiseStep] = {}
        self._pictures: list[Picture] = []
        self._readers: set[asyncio.Event] = set()
        self._ended = False

    @classmethod
    def of(cls, pictures: Iterable[Picture]) -> "ProgressFeed":
        """Returns the feed of a request that is done already."""
        feed = cls()
        for picture in pictures:
            feed.add_picture(picture)
        feed.end()
        return feed

    @property
    def pictures(self) -> Sequence[Picture]:
        """The finished pictures so far."""
        return self._pictures

    def add_step(self, index: int, step: DenoiseStep) -> None:
        """Replaces the progress of a picture; its newest preview stays until a newer one."""
        self._steps[index] = step
        if step.preview is not None:
            self._previews[index] = step
        self._wake()

    def add_picture(self, picture: Picture) -> None:
        """Adds a finished picture."""
        self._pictures.append(picture)
        self._wake()

    def end(self) -> None:
        """Lets the readers come to their end."""
        self._ended = True
        self._wake()

    async def events(self) -> AsyncGenerator[PictureStep | Picture, None]:
        """Yields the events; returns once `end` was called and all are read."""
        place, changed = _Place(), asyncio.Event()
        self._readers.add(changed)
        try:
            while True:
                # Cleared first: what is added while an event is being sent is seen next time.
                changed.clear()
                for step in self._unseen_steps(place):
                    yield step
                if place.picture_count < len(self._pictures):
                    place.picture_count += 1
                    yield self._pictures[place.picture_count - 1]
                elif self._ended:
                    return
                else:
                    await changed.wait()
        finally:
            self._readers.discard(changed)

    def _unseen_steps(self, place: "_Place") -> Iterator[PictureStep]:
        for index in list(self._steps):
            step = self._steps[index]
            if step.completed_step_count > place.steps.get(index, 0):
                place.steps[index] = step.completed_step_count
                yield PictureStep(index, self._with_preview(index, step, place))

    def _with_preview(self, index: int, step: DenoiseStep, place: "_Place") -> DenoiseStep:
        newest = self._previews.get(index)
        if newest is None or newest.completed_step_count <= place.previews.get(index, 0):
            return step
        place.previews[index] = newest.completed_step_count
        return replace(step, preview=newest.preview)

    def _wake(self) -> None:
        for changed in self._readers:
            changed.set()


class _Place:
    """How far a reader has come: steps and previews by picture, and pictures."""

    def __init__(self) -> None:
        self.steps: dict[int, int] = {}
        self.previews: dict[int, int] = {}
        self.picture_count = 0
