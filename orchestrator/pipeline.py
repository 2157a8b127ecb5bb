"""The life of one picture: five awaits, in the order of the data.

    prompt -> embeddings -> (negative embeddings) -> noise and latents -> latents -> image

Other pipelines are further short functions of this kind. Nothing here waits for a device or knows
of other requests: the stages and the admission before them see to both.
"""

from collections.abc import Callable
from dataclasses import dataclass

from .plan import GenerationPlan
from .stages import DenoiseStep, EncodedImage, StageRun, Stages


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


async def generate_picture(
    stages: Stages, plan: GenerationPlan, index: int, on_step: Callable[[DenoiseStep], None]
) -> Picture:
    """Returns the picture `index` of a request.

    Args:
        stages: the four stage services.
        plan: the request.
        index: place of the picture in the request; it chooses the seed.
        on_step: called after each denoising step.

    Raises:
        MeshError: a stage failed.
    """
    seed = plan.seeds[index]
    prompt = await stages.encode_text(plan, plan.prompt)
    negative = await stages.encode_text(plan, plan.negative_prompt) if plan.guided else None
    start = await stages.prepare_latents(plan, seed)
    latents = await stages.denoise(plan, seed, prompt, negative, start, on_step)
    image = await stages.decode_latents(plan, seed, latents)
    runs = (prompt, negative, start, latents, image)
    return Picture(
        index=index,
        seed=seed,
        image=image,
        dropped_token_count=prompt.dropped_token_count,
        runs=tuple(stage.run for stage in runs if stage is not None),
    )
