"""The life of one picture: five awaits, in the order of the data.

    prompt -> embeddings -> (negative embeddings) -> noise and latents -> latents -> image

Other pipelines are further short functions of this kind. Nothing here knows of devices or of other
requests: the run waits for a lane before each call, and makes it anew if a replica dies.
"""

from dataclasses import dataclass

from .picture_run import PictureRun
from .stages import EncodedImage, StageRun


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished picture.

    Attributes:
        index: place in its request, from 0.
        seed: the seed that makes it again.
        image: the encoded file.
        dropped_token_count: tokens of the prompt that were cut off.
        runs: what each stage call took, in the order of the calls.
    """

    index: int
    seed: int
    image: EncodedImage
    dropped_token_count: int
    runs: tuple[StageRun, ...]


async def generate_picture(run: PictureRun, index: int) -> Picture:
    """Returns the picture `index` of a request.

    Args:
        run: the stages, as this picture sees them.
        index: place of the picture in the request.

    Raises:
        MeshError: a stage failed.
    """
    plan = run.plan
    prompt = await run.encode_text(plan.prompt)
    negative = await run.encode_text(plan.negative_prompt) if plan.guided else None
    start = await run.prepare_latents()
    latents = await run.denoise(prompt, negative, start)
    image = await run.decode_latents(latents)
    runs = (prompt, negative, start, latents, image)
    return Picture(
        index=index,
        seed=run.seed,
        image=image,
        dropped_token_count=prompt.dropped_token_count,
        runs=tuple(stage.run for stage in runs if stage is not None),
    )
