"""Run: pytest tests/unit/test_progress.py"""

from sangsang.orchestrator.pipeline import Picture
from sangsang.orchestrator.progress import PictureStep, ProgressFeed
from sangsang.orchestrator.stages import DenoiseStep, EncodedImage, StageRun
from sangsang.stages.v1alpha1.tensor_pb2 import Tensor

RUN = StageRun("postprocessing", 0.0, 0.0, 1, "fake", "f32")


def picture(index: int) -> Picture:
    return Picture(index, index, EncodedImage(b"", "image/png", 8, 8, RUN), 0, ())


async def test_a_slow_reader_gets_the_newest_step_and_every_picture():
    feed = ProgressFeed()
    for step in range(1, 6):
        feed.add_step(0, DenoiseStep(step, 5, None))
    feed.add_picture(picture(0))
    feed.add_picture(picture(1))
    feed.end()
    events = [event async for event in feed.events()]
    assert events == [PictureStep(0, DenoiseStep(5, 5, None)), picture(0), picture(1)]


async def test_a_preview_not_yet_read_survives_steps_without_one():
    feed = ProgressFeed()
    preview = Tensor(data=b"x")
    feed.add_step(0, DenoiseStep(1, 5, preview))
    feed.add_step(0, DenoiseStep(2, 5, None))
    feed.end()
    assert [event async for event in feed.events()] == [PictureStep(0, DenoiseStep(2, 5, preview))]


async def test_pictures_do_not_share_their_progress():
    feed = ProgressFeed()
    feed.add_step(0, DenoiseStep(1, 5, None))
    feed.add_step(1, DenoiseStep(3, 5, None))
    feed.end()
    events = [event async for event in feed.events()]
    assert events == [
        PictureStep(0, DenoiseStep(1, 5, None)),
        PictureStep(1, DenoiseStep(3, 5, None)),
    ]
