"""Does the picture show what was asked for? A classifier that knows only real compositions decides.

It never sees a generated picture in training. Augmentation (blur, noise, shifted tones) keeps it
from judging by the crispness that an autoencoder takes away.
"""

# diffusers and transformers annotate loosely: `tuple[str]` for any tuple, outputs as bare tuples.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from .assembly import read_pipeline
from .autoencoder import to_unit_range
from .composition import SIDE_PX, Compositions, is_held_out
from .concepts import Concept
from .crew import Progress
from .prompts import COLOURS, plain

_WIDTHS = (32, 64, 128, 256)
_BORDER_PX = 2
_SAMPLES_AT_ONCE = 16

# One per evaluation process, opened when the process starts.
_pipeline: StableDiffusionPipeline | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt of the evaluation: which concept, on which colour if the prompt names one."""

    concept: int
    colour: int | None
    seed: int


@dataclass(frozen=True, slots=True)
class Score:
    """Shares of a set of questions: concept found first, in the first five, background right."""

    questions: int
    top1: float
    top5: float
    background: float | None


def new_classifier(concept_count: int) -> nn.Sequential:
    """Returns the untrained judge: [row, 3, 64, 64] in -1..1 to one logit per concept."""
    layers: list[nn.Module] = []
    for before, after in zip((3, *_WIDTHS), _WIDTHS, strict=False):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
    layers += [nn.Conv2d(_WIDTHS[-1], 512, 3, 1, 1), nn.BatchNorm2d(512), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, concept_count)
    )


def train_classifier(
    pool: Compositions, report: Callable[[Progress], None], epochs: int = 4, rows: int = 128
) -> nn.Sequential:
    """Returns the judge, trained on all of the pool but its last 512 rows."""
    torch.manual_seed(5)
    model = new_classifier(int(pool.concepts.max()) + 1)
    count = len(pool.pixels) - 512
    updates = epochs * count // rows
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, updates)
    for update in range(updates):
        picked = np.random.default_rng(update).integers(0, count, rows)
        pictures = _augmented(to_unit_range(pool.pixels[picked]))
        wanted = torch.from_numpy(pool.concepts[picked]).long()
        loss = functional.cross_entropy(model(pictures), wanted, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if update % 100 == 0:
            report(Progress(update, loss.item(), 0.0))
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Sequential, pictures: Tensor, concepts: NDArray[np.int16]) -> float:
    """Returns how often the judge names real pictures right: the ceiling of every score."""
    return (model(pictures).argmax(1).numpy() == concepts).mean().item()


def questions(concepts: list[Concept]) -> dict[str, list[Question]]:
    """Returns the three sets: bare names, pairs that training saw, and pairs that it never saw."""
    sets: dict[str, list[Question]] = {"name alone": [], "seen pairs": [], "held-out pairs": []}
    for number, concept in enumerate(concepts):
        sets["name alone"].append(Question(number, None, number))
        held_out = [is_held_out(concept.name, colour.name) for colour in COLOURS]
        seen = [colour for colour, out in enumerate(held_out) if not out]
        sets["seen pairs"].append(Question(number, seen[number % len(seen)], 10_000 + number))
        sets["held-out pairs"] += [
            Question(number, colour, 20_000 + number) for colour, out in enumerate(held_out) if out
        ]
    return sets


def evaluate(
    folder: Path,
    work: Path,
    concepts: list[Concept],
    pool: Compositions,
    workers: int,
    steps: int,
    guidance: float,
    console: Console,
) -> dict:
    """Returns the scores of every set of questions and writes them to `evaluation.json`."""
    judge = _judge(work, pool, console)
    real = accuracy(judge, to_unit_range(pool.pixels[-512:]), pool.concepts[-512:])
    result = {"steps": steps, "guidance": guidance, "concepts": len(concepts), "real": real}
    for title, asked in questions(concepts).items():
        pictures = generate(folder, concepts, asked, steps, guidance, workers)
        result[title] = asdict(score(judge, asked, pictures))
        console.print(title, result[title])
        result[title]["missed"] = _missed(judge, concepts, asked, pictures)
    text = json.dumps(result, indent=2, ensure_ascii=False)
    (folder / f"evaluation-{steps}-steps.json").write_text(text + "\n", "utf-8")
    return result


def generate(
    folder: Path,
    concepts: list[Concept],
    asked: list[Question],
    steps: int,
    guidance: float,
    workers: int,
) -> NDArray[np.uint8]:
    """Returns one picture per question, [question, 64, 64, 3]."""
    prompts = [
        plain(concepts[q.concept], None if q.colour is None else COLOURS[q.colour]) for q in asked
    ]
    seeds = [q.seed for q in asked]
    starts = range(0, len(asked), _SAMPLES_AT_ONCE)
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, _open_folder, (folder,)) as processes:
        drawn = processes.map(
            _draw,
            [prompts[i : i + _SAMPLES_AT_ONCE] for i in starts],
            [seeds[i : i + _SAMPLES_AT_ONCE] for i in starts],
            [steps] * len(starts),
            [guidance] * len(starts),
        )
        return np.concatenate(list(drawn))


def _open_folder(folder: Path) -> None:
    global _pipeline
    torch.set_num_threads(1)
    _pipeline = read_pipeline(folder)


def _draw(prompts: list[str], seeds: list[int], steps: int, guidance: float) -> NDArray[np.uint8]:
    assert _pipeline is not None
    images = _pipeline(
        prompts,
        num_inference_steps=steps,
        guidance_scale=guidance,
        height=SIDE_PX,
        width=SIDE_PX,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    ).images
    return np.stack([np.asarray(image) for image in images])


def _judge(work: Path, pool: Compositions, console: Console) -> nn.Sequential:
    """Returns the classifier, trained the first time."""
    path = work / "judge.pt"
    if not path.exists():

        def report(progress: Progress) -> None:
            console.print(f"judge: update {progress.update}, loss {progress.loss:.3f}")

        torch.save(train_classifier(pool, report).state_dict(), path)
    model = new_classifier(int(pool.concepts.max()) + 1)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


@torch.no_grad()
def _missed(
    model: nn.Sequential,
    concepts: list[Concept],
    asked: list[Question],
    pictures: NDArray[np.uint8],
) -> list[str]:
    """Returns "asked -> seen" for every picture that the judge takes for something else."""
    seen = model(to_unit_range(pictures)).argmax(1).tolist()
    pairs = [(q.concept, found) for q, found in zip(asked, seen, strict=True)]
    return [
        f"{concepts[wanted].name} -> {concepts[found].name}"
        for wanted, found in pairs
        if wanted != found
    ]


@torch.no_grad()
def score(model: nn.Sequential, asked: list[Question], pictures: NDArray[np.uint8]) -> Score:
    """Returns how many of the pictures the judge recognises."""
    best = model(to_unit_range(pictures)).topk(5).indices.numpy()
    wanted = np.array([q.concept for q in asked])
    hits = best == wanted[:, None]
    coloured = [
        _background(picture) == q.colour
        for q, picture in zip(asked, pictures, strict=True)
        if q.colour is not None
    ]
    background = float(np.mean(coloured)) if coloured else None
    return Score(len(asked), hits[:, 0].mean().item(), hits.any(1).mean().item(), background)


def _background(picture: NDArray[np.uint8]) -> int:
    """Returns the number of the colour nearest to the median of the picture's border."""
    edge = _BORDER_PX
    sides = [picture[:edge], picture[-edge:], picture[:, :edge], picture[:, -edge:]]
    tone = np.median(np.concatenate([side.reshape(-1, 3) for side in sides]), axis=0)
    distances = [np.square(tone - np.array(colour.rgb)).sum() for colour in COLOURS]
    return int(np.argmin(distances))


def _augmented(pictures: Tensor) -> Tensor:
    count = len(pictures)
    blurred = functional.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
    blur = torch.rand(count, 1, 1, 1)
    tone = 1 + 0.1 * torch.randn(count, 3, 1, 1)
    noise = 0.1 * torch.rand(count, 1, 1, 1) * torch.randn_like(pictures)
    return torch.lerp(pictures, blurred, blur) * tone + 0.05 * torch.randn(count, 3, 1, 1) + noise
