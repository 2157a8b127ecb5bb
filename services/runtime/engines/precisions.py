"""The precisions of a GPU's engines: which there are, where they run, and what decides them.

An engine in f16 follows from the model alone. One in 8 bits also follows from what was measured on
the model's own denoising trajectories, so the recipe of that measurement belongs to its key.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from ..errors import ModelNotReady
from ..models.folder import ModelFolder, ModuleName
from ..models.manifest import ADAPTER_FILE_NAME, Manifest

Precision: TypeAlias = Literal["f16", "int8", "fp8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_BY_NAME: Mapping[str, Precision] = {name: name for name in PRECISIONS}
DEFAULT_PRECISION: Precision = "f16"
# Where prompts for calibration lie in a model's folder, one on each line.
PROMPTS_PATH = Path("calibration") / "prompts.txt"
# Raise it when `building/quantizing/` changes what it measures, what it quantises, or how, and with
# the version of modelopt in `pyproject.toml`.
RECIPE_VERSION = "1"

# Tensor cores multiply FP8 from compute capability 8.9 on.
_FP8_FROM = 89
_MOST_PROMPTS = 256


def check_precision(backend: str, precision: str, devices: Sequence[str]) -> Precision:
    """Returns the precision, if engines of it can be built.

    Args:
        backend: what will run them.
        precision: one of `PRECISIONS`.
        devices: the GPUs, e.g. `sm_89`.

    Raises:
        ModelNotReady: there is no such precision, or the backend or a GPU does not have it.
    """
    found = _BY_NAME.get(precision)
    if found is None:
        raise ModelNotReady(f"no precision {precision!r}; there are {', '.join(PRECISIONS)}")
    if found != DEFAULT_PRECISION and backend != "tensorrt_rtx":
        raise ModelNotReady(
            f"backend {backend} has no engines in {precision}; only tensorrt_rtx has "
            f"(`sangsang build FOLDER --backend tensorrt_rtx --precision {precision}`)"
        )
    without = [device for device in devices if not _has(found, device)]
    if without:
        raise ModelNotReady(
            f"{', '.join(without)} cannot compute in {precision}: that needs sm_{_FP8_FROM} or "
            f"later; build for another GPU with --device, or in int8 or f16"
        )
    return found


def build_option(precision: str) -> str:
    """Returns what `sangsang build` is told to build in a precision; nothing for the default."""
    chosen = precision in PRECISIONS and precision != DEFAULT_PRECISION
    return f" --precision {precision}" if chosen else ""


def devices_of(precision: Precision, devices: Sequence[str]) -> tuple[str, ...]:
    """Returns those GPUs that compute in a precision."""
    return tuple(device for device in devices if _has(precision, device))


def module_precision(module: ModuleName, precision: Precision) -> Precision:
    """Returns the precision of a module where a model has this one: only its UNet goes below f16.

    The text encoder and the VAE run once for a picture, so they would save little, and the decoder
    is what the eye sees.
    """
    return precision if module == "unet" else DEFAULT_PRECISION


def read_prompts(folder: ModelFolder) -> tuple[str, ...]:
    """Returns the prompts that a model is calibrated with.

    Raises:
        ModelNotReady: the folder has none, or too many.
    """
    path = folder.path / PROMPTS_PATH
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ModelNotReady(
            f"8-bit engines are calibrated on pictures that the model draws: write prompts as its "
            f"users do, one a line, 16 or more, into {path} ({exc})"
        ) from exc
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not 1 <= len(prompts) <= _MOST_PROMPTS:
        raise ModelNotReady(f"{path} has {len(prompts)} prompts; 1 to {_MOST_PROMPTS} are taken")
    return prompts


def recipe(folder: ModelFolder, precision: Precision) -> str:
    """Returns what decides an engine in a precision besides the model and its adapters' ranks.

    Raises:
        ModelNotReady: the model has no prompts for calibration.
    """
    if precision == DEFAULT_PRECISION:
        return ""
    decisive = "\n".join((*read_prompts(folder), *_calibrated_with(folder)))
    return f"recipe {RECIPE_VERSION} with {hashlib.sha256(decisive.encode()).hexdigest()}"


def _calibrated_with(folder: ModelFolder) -> list[str]:
    """What the trajectories follow from, beside the UNet and the prompts."""
    manifest = Manifest.read(folder)
    tiers = manifest.tiers.values()
    adapters = [
        hashlib.sha256((folder.path / path / ADAPTER_FILE_NAME).read_bytes()).hexdigest()
        for name, path in manifest.adapters.items()
        if name in {tier.weights for tier in tiers}
    ]
    settings = [tier.model_dump_json() for tier in tiers]
    return [folder.digest("text_encoder"), *settings, str(manifest.default_scheduler), *adapters]


def _has(precision: Precision, device: str) -> bool:
    return precision != "fp8" or int(device.removeprefix("sm_")) >= _FP8_FROM
