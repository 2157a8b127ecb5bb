"""Compiles every sampler that a model may be asked for into one file of tables.

The schedulers are made as a diffusers user swaps them, `Cls.from_config(pipe.scheduler.config)`,
so the tables sample what that user's pipeline samples. A scheduler that clips, thresholds or is
otherwise not affine is refused by name, with the reason, rather than approximated.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelNotReady
from ..models.folder import ModelFolder
from ..models.sampler_tables import SamplerTables

if TYPE_CHECKING:
    from .sampler_compiler import CompiledSampler

SCHEDULES_NAME = "schedules.npz"
DEFAULT_MAX_STEP_COUNT = 100

Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class SamplerRecipe:
    """How a diffusers user makes the sampler: a scheduler class and what is overridden."""

    class_name: str
    overrides: Mapping[str, Any] = field(default_factory=dict[str, Any])


_MULTISTEP = "DPMSolverMultistepScheduler"
RECIPES: Mapping[str, SamplerRecipe] = {
    "ddim": SamplerRecipe("DDIMScheduler"),
    "ddpm": SamplerRecipe("DDPMScheduler"),
    "deis": SamplerRecipe("DEISMultistepScheduler"),
    "dpmpp_2m": SamplerRecipe(_MULTISTEP),
    "dpmpp_2m_karras": SamplerRecipe(_MULTISTEP, {"use_karras_sigmas": True}),
    "dpmpp_2m_sde": SamplerRecipe(_MULTISTEP, {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_3m": SamplerRecipe(_MULTISTEP, {"solver_order": 3}),
    "euler": SamplerRecipe("EulerDiscreteScheduler"),
    "euler_ancestral": SamplerRecipe("EulerAncestralDiscreteScheduler"),
    "heun": SamplerRecipe("HeunDiscreteScheduler"),
    "lcm": SamplerRecipe("LCMScheduler"),
    "lms": SamplerRecipe("LMSDiscreteScheduler"),
    "pndm": SamplerRecipe("PNDMScheduler"),
    "unipc": SamplerRecipe("UniPCMultistepScheduler"),
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
    from .probing import NotAffine
    from .sampler_compiler import SamplerCompiler

    with _quiet_diffusers():
        own = own_scheduler(scheduler_config)
        default, recipes = with_own_sampler(own)
        samplers: dict[str, CompiledSampler] = {}
        refused: dict[str, str] = {}
        for index, (name, recipe) in enumerate(recipes.items()):
            if progress is not None:
                progress(index / len(recipes), name)
            try:
                scheduler = make_scheduler(own, name, recipe)
                samplers[name] = SamplerCompiler(name, scheduler, max_step_count).run()
            except NotAffine as exc:
                refused[name] = exc.why
    if progress is not None:
        progress(1.0, default)
    return ScheduleReport(path, default, samplers, refused)


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
    short = re.sub(r"(?<!^)(?=[A-Z])", "_", name.removesuffix("Scheduler")).lower()
    return short, {short: SamplerRecipe(name), **RECIPES}


@contextmanager
def _quiet_diffusers() -> Iterator[None]:
    """Keeps diffusers from naming every option that one scheduler has and another has not."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
