"""Compiles every sampler that a model may be asked for into one file of tables.

The schedulers are made as a diffusers user swaps them, `Cls.from_config(pipe.scheduler.config)`,
so the tables sample what that user's pipeline samples. A scheduler that clips, thresholds or is
otherwise not affine is refused by name, with the reason, rather than approximated.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import ModelNotReady
from ..models.folder import ModelFolder
from ..models.sampler_tables import SCHEDULES_NAME, SamplerTables

if TYPE_CHECKING:
    from .sampler_compiler import CompiledSampler

DEFAULT_MAX_STEP_COUNT = 100
# Up to here compiling takes less time than starting processes for it.
_SMALL_STEP_COUNT = 24

Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class SamplerRecipe:
    """How a diffusers user makes the sampler: a scheduler class and what is overridden."""

    class_name: str
    overrides: Mapping[str, Any] = field(default_factory=dict[str, Any])


# Scheduler configuration, sampler, recipe, most steps.
Job: TypeAlias = tuple[dict[str, Any], str, SamplerRecipe, int]

_MULTISTEP = "DPMSolverMultistepScheduler"
# Those that take longest first, so that the processes that compile them end together.
RECIPES: Mapping[str, SamplerRecipe] = {
    "unipc": SamplerRecipe("UniPCMultistepScheduler"),
    "pndm": SamplerRecipe("PNDMScheduler"),
    "dpmpp_3m": SamplerRecipe(_MULTISTEP, {"solver_order": 3}),
    "dpmpp_2m_karras": SamplerRecipe(_MULTISTEP, {"use_karras_sigmas": True}),
    "dpmpp_2m_sde": SamplerRecipe(_MULTISTEP, {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2m": SamplerRecipe(_MULTISTEP),
    "deis": SamplerRecipe("DEISMultistepScheduler"),
    "heun": SamplerRecipe("HeunDiscreteScheduler"),
    "ddim": SamplerRecipe("DDIMScheduler"),
    "ddpm": SamplerRecipe("DDPMScheduler"),
    "euler": SamplerRecipe("EulerDiscreteScheduler"),
    "euler_ancestral": SamplerRecipe("EulerAncestralDiscreteScheduler"),
    "lcm": SamplerRecipe("LCMScheduler"),
}


@dataclass(frozen=True, slots=True)
class ScheduleReport:
    """What `build_schedules` made.

    Attributes:
        path: the file.
        default: the folder's own sampler.
        samplers: each compiled sampler, by name.
        refused: why each other known sampler is not served.
    """

    path: Path
    default: str
    samplers: Mapping[str, "CompiledSampler"]
    refused: Mapping[str, str]


def build_schedules(
    folder: ModelFolder,
    out: Path,
    progress: Progress | None = None,
    *,
    max_step_count: int = DEFAULT_MAX_STEP_COUNT,
) -> ScheduleReport:
    """Compiles the samplers of a model into `out / SCHEDULES_NAME`.

    Args:
        folder: the model; its scheduler configuration is what every sampler is made from.
        out: folder to write to; it must exist.
        progress: told the share done, 0 to 1, and the sampler worked on.
        max_step_count: most steps a request may ask for.
    """
    report = compile_samplers(
        folder.scheduler_config, progress, max_step_count=max_step_count, path=out / SCHEDULES_NAME
    )
    packed = {name: compiled.packed for name, compiled in report.samplers.items()}
    SamplerTables(report.default, max_step_count, packed, report.refused).save(report.path)
    return report


def compile_samplers(
    scheduler_config: Mapping[str, Any],
    progress: Progress | None = None,
    *,
    max_step_count: int = DEFAULT_MAX_STEP_COUNT,
    path: Path = Path(SCHEDULES_NAME),
) -> ScheduleReport:
    """Returns every sampler compiled for a `scheduler_config.json`; writes nothing."""
    with quiet_diffusers():
        default, recipes = with_own_sampler(own_scheduler(scheduler_config))
    jobs = [(dict(scheduler_config), name, recipes[name], max_step_count) for name in recipes]
    samplers: dict[str, CompiledSampler] = {}
    refused: dict[str, str] = {}
    for done, (name, outcome) in enumerate(_compiled(jobs)):
        if progress is not None:
            progress((done + 1) / len(jobs), name)
        if isinstance(outcome, str):
            refused[name] = outcome
        else:
            samplers[name] = outcome
    return ScheduleReport(path, default, samplers, refused)


def _compiled(jobs: Sequence[Job]) -> Iterator[tuple[str, "CompiledSampler | str"]]:
    """Yields each job's sampler, or why it is refused, in the order of the jobs."""
    process_count = min(len(jobs), os.cpu_count() or 1)
    if process_count == 1 or jobs[0][-1] <= _SMALL_STEP_COUNT:
        yield from map(compile_job, jobs)
        return
    # Spawned, because a fork of a process with torch's and gRPC's threads can hang.
    with ProcessPoolExecutor(process_count, mp_context=get_context("spawn")) as pool:
        yield from pool.map(compile_job, jobs)


def compile_job(job: Job) -> tuple[str, "CompiledSampler | str"]:
    """Returns the name and the compiled sampler of a job, or why it is refused."""
    import torch

    from .probing import NotAffine
    from .sampler_compiler import SamplerCompiler

    config, name, recipe, max_step_count = job
    thread_count = torch.get_num_threads()
    # The tensors are tiny: a second thread only waits.
    torch.set_num_threads(1)
    try:
        with quiet_diffusers():
            scheduler = make_scheduler(own_scheduler(config), name, recipe)
            return name, SamplerCompiler(name, scheduler, max_step_count).run()
    except NotAffine as exc:
        return name, exc.why
    finally:
        torch.set_num_threads(thread_count)


def own_scheduler(config: Mapping[str, Any]) -> Any:
    """Returns the scheduler that a pipeline loaded from the folder would have.

    Raises:
        ModelNotReady: diffusers has no such class.
    """
    import diffusers

    name = str(config.get("_class_name"))
    kind = getattr(diffusers, name, None)
    if kind is None or not name.endswith("Scheduler"):
        raise ModelNotReady(f"scheduler_config.json names {name!r}, which diffusers does not have")
    return kind.from_config(dict(config))


def make_scheduler(own: Any, name: str, recipe: SamplerRecipe) -> Any:
    """Returns the scheduler of a recipe, swapped in as a diffusers user does.

    Raises:
        NotAffine: it cannot be made from this configuration.
    """
    import diffusers

    from .probing import NotAffine

    try:
        return getattr(diffusers, recipe.class_name).from_config(own.config, **recipe.overrides)
    except ImportError as exc:
        missing = "a package that was not installed when the model was built"
        raise NotAffine(name, f"{recipe.class_name} needs {missing}") from exc
    except (ValueError, NotImplementedError) as exc:
        raise NotAffine(name, f"{recipe.class_name} refuses: {str(exc)[:160]}") from exc


def named_scheduler(own: Any, name: str | None) -> Any:
    """Returns the scheduler of this name as a diffusers user swaps it in for the folder's own.

    Raises:
        ModelNotReady: there is none of this name.
    """
    from .probing import NotAffine

    default, recipes = with_own_sampler(own)
    recipe = recipes.get(name or default)
    if recipe is None:
        raise ModelNotReady(f"there is no scheduler {name!r}; known are {', '.join(recipes)}")
    try:
        return make_scheduler(own, name or default, recipe)
    except NotAffine as exc:
        raise ModelNotReady(exc.why) from exc


def with_own_sampler(own: Any) -> tuple[str, dict[str, SamplerRecipe]]:
    """Returns the name of the folder's own sampler, and all recipes including it."""
    name = type(own).__name__
    matching = [
        (len(recipe.overrides), short)
        for short, recipe in RECIPES.items()
        if recipe.class_name == name
        and all(own.config.get(key) == value for key, value in recipe.overrides.items())
    ]
    if matching:
        # Overrides that its configuration has already change nothing: it is its own recipe.
        return max(matching)[1], dict(RECIPES)
    words = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
    short = re.sub(words, "_", name.removesuffix("Scheduler")).lower()
    return short, {short: SamplerRecipe(name), **RECIPES}


@contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Keeps diffusers from naming every option that one scheduler has and another has not."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
