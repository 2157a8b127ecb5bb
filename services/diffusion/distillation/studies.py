"""What is learnt on: latents with their prompts, made once and kept.

From real pictures, or, where only prompts are at hand, from the guided teacher itself: what the
student will meet when it serves are its teacher's latents, not the world's.
"""

# diffusers and transformers annotate loosely: `tuple[str]` for any tuple, outputs as bare tuples.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportReturnType=false

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..evaluation.real_pictures import METADATA_NAME

_ROWS_AT_ONCE = 16

# Told how many of how many rows are made.
Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Studies:
    """Latents and what they show.

    Attributes:
        latents: [row, channel, height, width], f16, scaled as the UNet takes them.
        prompts: one for each row.
    """

    latents: Tensor
    prompts: list[str]

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True, slots=True)
class TeacherSampling:
    """How the teacher draws what its students learn on.

    Attributes:
        prompts: drawn in turn.
        row_count: latents to make.
        step_count: steps of DPM-Solver++, which needs fewer than DDIM.
        guidance_scale: as the students will imitate.
    """

    prompts: tuple[str, ...]
    row_count: int
    step_count: int
    guidance_scale: float

    @property
    def file_count(self) -> int:
        """Files of 16 rows that they fill."""
        return -(-self.row_count // _ROWS_AT_ONCE)

    def prompt(self, row: int) -> str:
        """Returns the prompt of a row."""
        return self.prompts[row % len(self.prompts)]


def draw_latents(
    pipeline: StableDiffusionPipeline,
    sampling: TeacherSampling,
    folder: Path,
    share: range,
    report: Report,
) -> None:
    """Lets the guided teacher draw latents into files of 16; those on disk are kept.

    Args:
        pipeline: of the model folder.
        sampling: what to draw and how.
        folder: where they are kept, for the same sampling only.
        share: numbers of the files that are this process's to draw.
        report: told after each file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawer = StableDiffusionPipeline(
        **{**pipeline.components, "scheduler": _fast_sampler(pipeline)},
        requires_safety_checker=False,
    )
    drawer.set_progress_bar_config(disable=True)
    for done, number in enumerate(share, 1):
        file = folder / f"{number:05d}.safetensors"
        if not file.exists():
            _keep(_drawn(drawer, sampling, number), file)
        report(done, len(share))


def read_drawn(sampling: TeacherSampling, folder: Path) -> Studies:
    """Returns what the processes together have drawn."""
    files = [folder / f"{number:05d}.safetensors" for number in range(sampling.file_count)]
    latents = torch.cat([load_file(file)["latents"] for file in files])
    return Studies(latents, [sampling.prompt(row) for row in range(sampling.row_count)])


def from_pictures(
    pipeline: StableDiffusionPipeline,
    pictures: Path,
    size_px: tuple[int, int],
    file: Path,
    report: Report,
) -> Studies:
    """Returns the latents of real pictures, encoded once.

    Args:
        pipeline: of the model folder.
        pictures: an image folder as Hugging Face's `datasets` reads it: pictures, and in
            `metadata.jsonl` a line for each with `file_name` and `text`.
        size_px: height and width that they are resized to.
        file: where the latents are kept.
        report: told after each batch.

    Raises:
        FileNotFoundError: there is no `metadata.jsonl`.
        ValueError: a line of it lacks a field.
    """
    lines = list(_metadata(pictures))
    if not file.exists():
        batches = []
        for start in range(0, len(lines), _ROWS_AT_ONCE):
            names = [name for name, _ in lines[start : start + _ROWS_AT_ONCE]]
            batches.append(_encoded(pipeline, [pictures / name for name in names], size_px))
            report(start + len(names), len(lines))
        _keep(torch.cat(batches), file)
    return Studies(load_file(file)["latents"], [text for _, text in lines])


def captions(pictures: Path) -> tuple[str, ...]:
    """Returns what pictures show, from their `metadata.jsonl`; raises as `from_pictures` does."""
    return tuple(text for _, text in _metadata(pictures))


def _fast_sampler(pipeline: StableDiffusionPipeline) -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, algorithm_type="dpmsolver++", solver_order=2
    )


def _drawn(pipeline: StableDiffusionPipeline, sampling: TeacherSampling, number: int) -> Tensor:
    start = number * _ROWS_AT_ONCE
    rows = range(start, min(sampling.row_count, start + _ROWS_AT_ONCE))
    return pipeline(
        [sampling.prompt(row) for row in rows],
        num_inference_steps=sampling.step_count,
        guidance_scale=sampling.guidance_scale,
        generator=[torch.Generator().manual_seed(row) for row in rows],
        output_type="latent",
    ).images


def _metadata(pictures: Path) -> Iterator[tuple[str, str]]:
    path = pictures / METADATA_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: a line for each picture, "
            '{"file_name": "cat.png", "text": "a cat on a red background"}'
        )
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        entry = json.loads(line)
        if "file_name" not in entry or "text" not in entry:
            raise ValueError(f"{path}, line {number}: file_name and text are needed")
        yield entry["file_name"], entry["text"]


@torch.no_grad()
def _encoded(
    pipeline: StableDiffusionPipeline, files: list[Path], size_px: tuple[int, int]
) -> Tensor:
    height, width = size_px
    pictures = [
        np.asarray(
            Image.open(file).convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        )
        for file in files
    ]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    vae = pipeline.vae
    latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mean
    return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def _keep(latents: Tensor, file: Path) -> None:
    partial = file.with_suffix(".partial")
    save_file({"latents": latents.half().cpu().contiguous()}, partial)
    partial.rename(file)
