"""What f16, INT8 and FP8 cost in quality and give in size, in Markdown. Needs no GPU.

Three tables: how far a UNet evaluation is from f32 along trajectories that nothing was calibrated
with, and how large its graph is; how large each GPU's engine is, and how much CPU time it took; and
what the evaluation says of each tier's pictures, the same questions and seeds for each precision.

Run: python -m tests.benchmarks.precisions deploy/models/pocket [differences engines quality]
Pictures that were drawn are kept in build/evaluation: a run that was stopped goes on from there.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from rich.console import Console
from rich.progress import Progress

from sangsang.services.diffusion.evaluation.comparison import Plan, compare
from sangsang.services.diffusion.evaluation.configurations import (
    Configuration,
    in_precisions,
    read_configurations,
)
from sangsang.services.diffusion.evaluation.questions import Question
from sangsang.services.diffusion.evaluation.results import Comparison
from sangsang.services.diffusion.evaluation.sampling import Painting, batches_of
from sangsang.services.diffusion.evaluation.scores import Estimate
from sangsang.services.diffusion.evaluation.weights import keep_libraries_quiet
from sangsang.services.runtime.building.builder_process import run_builder
from sangsang.services.runtime.building.quantizing import simulation
from sangsang.services.runtime.building.quantizing.quantize import convert
from sangsang.services.runtime.building.tensor_rt_rtx import TensorRtRtxBuilder
from sangsang.services.runtime.engines import onnx_runtime
from sangsang.services.runtime.engines.adapter_bank import open_bank
from sangsang.services.runtime.engines.cache import EngineCache
from sangsang.services.runtime.engines.loading import find_build
from sangsang.services.runtime.engines.precisions import PRECISIONS, devices_of
from sangsang.services.runtime.engines.tensor_rt_rtx import ENGINE_NAME, TARGETS, library_version
from sangsang.services.runtime.models.folder import ModelFolder
from sangsang.services.runtime.models.manifest import Manifest

PARTS = ("differences", "engines", "quality")
_MEGABYTE = 1e6


def row(*cells: object) -> None:
    print("|".join(("", *(f" {cell} " for cell in cells), "")), flush=True)


def header(*cells: str) -> None:
    print()
    row(*cells)
    print("|---" * len(cells) + "|", flush=True)


def convert_all(folder: ModelFolder, target: Path) -> dict[str, Path]:
    """The converted graph of the UNet in each precision."""
    bank, files = open_bank(folder), {}
    build = find_build(folder, onnx_runtime.build_key(folder, "unet"), None)
    for precision in PRECISIONS:
        started_at = time.process_time()
        files[precision] = target / precision / "unet.onnx"
        files[precision].parent.mkdir()
        graph = convert(folder, "unet", build, bank, precision)
        ir.save(graph, files[precision], external_data="unet.bin")
        print(f"{precision}: converted in {time.process_time() - started_at:.0f} s", flush=True)
    return files


def show_differences(folder: ModelFolder, files: dict[str, Path]) -> None:
    bank = open_bank(folder)
    build = find_build(folder, onnx_runtime.build_key(folder, "unet"), None)
    reference = onnx_runtime.OnnxRuntimeEngine(folder, "unet", build, bank=bank)
    rows = simulation.held_out(folder, reference, bank)
    header("UNet evaluation", "largest difference", "mean", "root mean square", "graph")
    for precision, file in files.items():
        target = file.with_name("simulated.onnx")
        simulation.write_simulation(file, target)
        found = simulation.compare(simulation.SimulatedUnet(target, bank), reference, rows)
        size = sum(file.with_suffix(end).stat().st_size for end in (".onnx", ".bin"))
        row(
            precision,
            f"{found.largest:.3f}",
            f"{found.mean:.4f}",
            f"{found.relative:.2%}",
            f"{size / _MEGABYTE:.1f} MB",
        )
    print(f"\n{len(rows)} rows of trajectories of every tier")


def time_of_children() -> float:
    """CPU time of the processes that have ended: neighbours on the machine count little."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def show_engines(folder: ModelFolder, files: dict[str, Path]) -> None:
    bank = open_bank(folder)
    build = find_build(folder, onnx_runtime.build_key(folder, "unet"), None)
    print(f"\nTensorRT-RTX {library_version()}; CPU time of the process that builds")
    header("UNet", *TARGETS)
    for precision, file in files.items():
        cells: list[str] = []
        for device in TARGETS:
            if device not in devices_of(precision, [device]):
                cells.append("-")
                continue
            target = file.with_name(device)
            target.mkdir()
            builder = TensorRtRtxBuilder(folder, "unet", build, bank, EngineCache(file.parent))
            started_at = time_of_children()
            run_builder(builder.task(file, target, device))
            seconds = time_of_children() - started_at
            engine = target / ENGINE_NAME
            cells.append(f"{engine.stat().st_size / _MEGABYTE:.2f} MB, {seconds:.1f} s")
        row(precision, *cells)


def configurations(manifest: Manifest, tier: str) -> tuple[Configuration, ...]:
    exact = [one for one in read_configurations(manifest) if one.name == tier]
    lower = [one for one in in_precisions(manifest, PRECISIONS) if one.name.startswith(f"{tier},")]
    return (*exact, *lower)


def measure(arguments: argparse.Namespace, tier: str, limit: int | None) -> Comparison:
    folder = ModelFolder.open(arguments.model_folder)
    plan = Plan(
        folder=arguments.model_folder,
        pictures=Path("build/pictures") / folder.model_id,
        configurations=configurations(Manifest.read(folder), tier),
        work=arguments.work,
        question_limit=limit,
        variety_prompts=1,
        variety_seeds=2,
    )
    with Progress(console=Console(stderr=True)) as bars:
        return compare(plan, bars)


def pixels_of(
    painting: Painting, configuration: Configuration, questions: tuple[Question, ...]
) -> np.ndarray:
    batches = batches_of(configuration, questions, painting.batch_size)
    drawn = painting.draw(batches, lambda _: None)
    return np.concatenate([one.pixels for one in drawn]).astype(np.float64)


def show_quality(arguments: argparse.Namespace, tier: str, limit: int | None) -> None:
    found = measure(arguments, tier, limit)
    # They have been drawn: this reads them back.
    painting = Painting(arguments.model_folder, arguments.work / "samples", 1)
    painting.prepare([one.configuration.precision for one in found.outcomes], lambda *_: None)
    exact = pixels_of(painting, found.outcomes[0].configuration, found.questions)
    header(tier, "right", "right against f32", "first five", "background", "Fréchet distance",
           "pixels differ by, of 255")  # fmt: skip
    for one in found.outcomes:
        apart = np.abs(pixels_of(painting, one.configuration, found.questions) - exact)
        row(
            one.configuration.precision,
            share(one.total.top1),
            ratio(one.against_reference.top1),
            f"{one.total.top5.value:.1%}",
            "-" if one.total.background is None else f"{one.total.background.value:.1%}",
            f"{one.frechet:.1f}",
            f"{apart.mean():.2f}",
        )
    print(f"\n{len(found.questions)} questions; real pictures: {share(found.real.top1)}, "
          f"Fréchet distance {found.real.frechet:.1f}")  # fmt: skip


def share(found: Estimate) -> str:
    return f"{found.value:.1%} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def ratio(found: Estimate | None) -> str:
    return "-" if found is None else f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_folder", type=Path)
    parser.add_argument("parts", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--free-questions", type=int, help="of each group; default all")
    parser.add_argument("--pro-questions", type=int, help="of each group; default all")
    parser.add_argument("--tiers", nargs="*", default=["free", "pro"])
    parser.add_argument("--work", type=Path, default=Path("build/evaluation"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_libraries_quiet()
    folder = ModelFolder.open(arguments.model_folder)
    if {"differences", "engines"} & set(arguments.parts):
        with tempfile.TemporaryDirectory() as name:
            files = convert_all(folder, Path(name))
            if "differences" in arguments.parts:
                show_differences(folder, files)
            if "engines" in arguments.parts:
                show_engines(folder, files)
    limits = {"free": arguments.free_questions, "pro": arguments.pro_questions}
    for tier in arguments.tiers if "quality" in arguments.parts else ():
        show_quality(arguments, tier, limits[tier])


if __name__ == "__main__":
    main()
