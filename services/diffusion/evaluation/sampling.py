"""Draws the pictures with diffusers, in single-threaded processes, and keeps every batch.

A batch is stored under the digest of all that decides it, so a run that was stopped goes on where
it was, and a configuration that was drawn before is not drawn again.
"""

# diffusers annotates loosely.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false

import hashlib
import json
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...runtime.building.quantizing.graph_unet import adapter_scales, evaluate_with
from ...runtime.building.quantizing.simulation import SimulatedUnet
from ...runtime.building.schedules import named_scheduler, own_scheduler
from ...runtime.engines.adapter_bank import open_bank
from ...runtime.engines.precisions import PRECISIONS
from ...runtime.models.folder import ModelFolder
from .configurations import EXACT, Configuration
from .questions import Question
from .simulated import check_weights, simulated_unet
from .weights import BASE, WeightSet, keep_libraries_quiet, open_pipeline, open_weights

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

# Pictures drawn at a time, and up to which size: larger ones would not fit into memory.
_BATCH_SIZE, _BATCH_PIXELS = 16, 16 * 128 * 128

# One per process, opened when the process starts.
_painter: "Painter | None" = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures drawn together: prompts, one seed each, and how."""

    configuration: Configuration
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a batch gave and cost.

    Attributes:
        pixels: [picture, height, width, 3], uint8.
        cpu_s: seconds of one thread, from the prompts to the pixels.
        unet_rows: rows that the UNet evaluated; a guided step takes two for each picture.
    """

    pixels: NDArray[np.uint8]
    cpu_s: float
    unet_rows: int

    @property
    def cpu_s_per_picture(self) -> float:
        """Seconds of one thread for one picture."""
        return self.cpu_s / len(self.pixels)


class Painter:
    """Draws batches with one model folder; keeps the pipeline of the weights used last.

    Args:
        folder: the model.
        graphs: file of the UNet's graph for each precision other than f32.
    """

    def __init__(self, folder: Path, graphs: Mapping[str, Path]) -> None:
        self._model = ModelFolder.open(folder)
        self._graphs = graphs
        self._weights: tuple[str, str] | None = None
        self._pipeline: StableDiffusionPipeline | None = None
        self._own: Any = None
        self._unet_rows = 0

    def draw(self, batch: Batch) -> Drawn:
        """Returns the batch's pictures."""
        pipeline = self._open(batch.configuration)
        self._unet_rows = 0
        started_s = time.process_time()
        images = pipeline(
            list(batch.prompts),
            num_inference_steps=batch.configuration.step_count,
            guidance_scale=batch.configuration.guidance_scale,
            height=self._model.default_height_px,
            width=self._model.default_width_px,
            generator=[torch.Generator().manual_seed(seed) for seed in batch.seeds],
            output_type="np",
        ).images
        cpu_s = time.process_time() - started_s
        return Drawn((images * 255).round().astype(np.uint8), cpu_s, self._unet_rows)

    def _open(self, configuration: Configuration) -> "StableDiffusionPipeline":
        used = configuration.weights, configuration.precision
        if self._pipeline is None or self._weights != used:
            self._pipeline = self._load(*used)
            self._weights, self._own = used, self._pipeline.scheduler
            self._pipeline.unet.register_forward_pre_hook(self._count)
        self._pipeline.scheduler = named_scheduler(self._own, configuration.scheduler)
        return self._pipeline

    def _load(self, weights: str, precision: str) -> "StableDiffusionPipeline":
        folder = self._model.path
        if precision == EXACT:
            return open_pipeline(folder, open_weights(folder, weights))
        pipeline = open_pipeline(folder, open_weights(folder, BASE))
        bank = open_bank(self._model)
        unet = SimulatedUnet(self._graphs[precision], bank)
        evaluate_with(pipeline, unet.evaluate, adapter_scales(bank, weights))
        return pipeline

    def _count(self, _: object, inputs: tuple[torch.Tensor, ...]) -> None:
        self._unet_rows += len(inputs[0])


class Painting:
    """Draws what is asked of one model folder, as far as it is not there yet.

    Args:
        folder: the model.
        store: folder of finished batches.
        workers: how many single-threaded processes draw.
    """

    def __init__(self, folder: Path, store: Path, workers: int) -> None:
        self._folder, self._store, self._workers = folder, store, workers
        self._model = ModelFolder.open(folder)
        self._digests: dict[str, str] = {}
        self._graphs: dict[str, Path] = {}

    @property
    def batch_size(self) -> int:
        """How many pictures are drawn at a time."""
        pixels = self._model.default_width_px * self._model.default_height_px
        return max(1, min(_BATCH_SIZE, _BATCH_PIXELS // pixels))

    def check(self, configurations: Iterable[Configuration]) -> None:
        """Finds each configuration's weights, scheduler and, for a precision, graph.

        Raises:
            ModelNotReady: one of them is not there.
        """
        own = own_scheduler(self._model.scheduler_config)
        for configuration in configurations:
            open_weights(self._folder, configuration.weights)
            named_scheduler(own, configuration.scheduler)
            if configuration.precision != EXACT:
                check_weights(self._model, configuration.weights)

    def prepare(self, precisions: Iterable[str], tell: Callable[[int, int], None]) -> None:
        """Makes the UNet's graph for each precision, where it is not there yet.

        Raises:
            ModelNotReady: the model has not been built, or cannot be had in one of them.
        """
        named = set(precisions)
        wanted = [one for one in PRECISIONS if one in named]
        for done, precision in enumerate(wanted):
            tell(done, len(wanted))
            self._graphs[precision] = simulated_unet(
                self._model, precision, self._store.parent / "graphs"
            )
        tell(1, 1)

    def draw(self, batches: Sequence[Batch], tell: Callable[[Batch], None]) -> list[Drawn]:
        """Returns what each batch gives; `tell` hears of each when it is there."""
        files = [self._file(batch) for batch in batches]
        missing = [
            (batch, file) for batch, file in zip(batches, files, strict=True) if not file.exists()
        ]
        self._store.mkdir(parents=True, exist_ok=True)
        for batch, file in zip(batches, files, strict=True):
            if file.exists():
                tell(batch)
        for batch, file, drawn in _draw_all(self._folder, self._graphs, missing, self._workers):
            _save(drawn, file)
            tell(batch)
        return [_load(file) for file in files]

    def _file(self, batch: Batch) -> Path:
        settings = asdict(batch.configuration)
        # The same picture under another name is the same picture.
        del settings["name"], settings["weights"], settings["precision"]
        decisive: dict[str, Any] = {
            "settings": settings,
            "prompts": batch.prompts,
            "seeds": batch.seeds,
            "model": self._digest(batch.configuration.weights),
        }
        if batch.configuration.precision != EXACT:
            decisive["graph"] = self._graphs[batch.configuration.precision].parent.name
        text = json.dumps(decisive, sort_keys=True)
        return self._store / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"

    def _digest(self, weights: str) -> str:
        if weights not in self._digests:
            self._digests[weights] = _digest(self._model, open_weights(self._folder, weights))
        return self._digests[weights]


def batches_of(
    configuration: Configuration, questions: Sequence[Question], size: int
) -> list[Batch]:
    """Returns the questions as batches of at most `size`, in their order."""
    parts = [questions[i : i + size] for i in range(0, len(questions), size)]
    return [
        Batch(
            configuration,
            tuple(question.caption.text for question in part),
            tuple(question.seed for question in part),
        )
        for part in parts
    ]


def _draw_all(
    folder: Path, graphs: Mapping[str, Path], missing: list[tuple[Batch, Path]], workers: int
) -> Iterator[tuple[Batch, Path, Drawn]]:
    if not missing:
        return
    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        painter = Painter(folder, graphs)
        for batch, file in missing:
            yield batch, file, painter.draw(batch)
        torch.set_num_threads(threads)
        return
    # Spawned, because a fork of a process in which torch has started threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (folder, graphs)) as processes:
        pending = {processes.submit(_draw, batch): (batch, file) for batch, file in missing}
        try:
            for future in as_completed(pending):
                yield *pending[future], future.result()
        except BaseException:
            processes.shutdown(cancel_futures=True)
            raise


def _start(folder: Path, graphs: Mapping[str, Path]) -> None:
    global _painter
    # Ctrl-C reaches every process; the first one alone decides what is left undone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    keep_libraries_quiet()
    _painter = Painter(folder, graphs)


def _draw(batch: Batch) -> Drawn:
    assert _painter is not None
    return _painter.draw(batch)


def model_digest(model: ModelFolder) -> str:
    """Returns the sha256, in hex, of all that the folder's own weights draw with."""
    parts = [model.digest(module) for module in ("text_encoder", "unet", "vae_decoder")]
    parts.append(json.dumps(dict(model.scheduler_config), sort_keys=True))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _digest(model: ModelFolder, weights: WeightSet) -> str:
    config = weights.folder / "config.json"
    files = [*weights.files, *([config] if config.is_file() else [])]
    parts = [model_digest(model)]
    parts += [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _save(drawn: Drawn, file: Path) -> None:
    """Writes the batch beside `file` and renames it, so that a half-written one is never read."""
    partial = file.with_name(f"partial-{file.name}")
    np.savez(partial, pixels=drawn.pixels, cpu_s=drawn.cpu_s, unet_rows=drawn.unet_rows)
    partial.rename(file)


def _load(file: Path) -> Drawn:
    with np.load(file) as stored:
        return Drawn(stored["pixels"], float(stored["cpu_s"]), int(stored["unet_rows"]))
