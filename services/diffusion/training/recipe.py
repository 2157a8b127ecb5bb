"""The stages of the recipe in their order, each stored so that a restart skips what is done."""

# ruff: noqa: S311 - prompts are drawn from seeds, not secrets
# diffusers and transformers annotate loosely: `tuple[str]` for any tuple, outputs as bare tuples.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from diffusers import AutoencoderKL
from rich.console import Console
from torch import Tensor
from transformers import CLIPTokenizer

from .assembly import write_folder
from .autoencoder import encode_pool, sharpen_decoder, train_autoencoder
from .composition import Compositions, draw_pool, is_held_out, load_pool, save_pool
from .concepts import Concept, read_concepts
from .crew import Progress
from .pictures import ARTWORK_PACKAGE, NAMES_PACKAGE, fetch, load_artwork
from .prompts import COLOURS, ask
from .stopwatch import Budget
from .text import learn_tokenizer, new_text_encoder, teach_names
from .text_to_image import TextToImage, new_unet, train_text_to_image

_POOL_SEED, _TEXT_SEED, _UNET_SEED, _PROMPT_SEED = 1, 2, 3, 7


@dataclass(frozen=True, slots=True)
class Budgets:
    """Minutes for the three long stages, updates for the text encoder's first lessons."""

    autoencoder: float
    text_updates: int
    unet: float
    decoder: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything a run needs to know.

    Attributes:
        work: Where downloads, pictures, checkpoints and logs go.
        workers: How many single-threaded processes train.
        budgets: Minutes for the long stages.
        compositions: How many pictures are drawn to learn from.
        console: Where progress is shown.
    """

    work: Path
    workers: int
    budgets: Budgets
    compositions: int
    console: Console

    def run(self, folder: Path) -> None:
        """Trains what is not trained yet and writes the pipeline folder."""
        pool, concepts = real_pictures(self.work, self.compositions, self.workers)
        self.console.print(f"{len(concepts)} concepts, {len(pool.pixels)} pictures")
        autoencoder = self._autoencoder(pool)
        latents = self._latents(autoencoder, pool)
        tokenizer, model = self._named(concepts)
        average = train_text_to_image(
            model,
            tokenizer,
            concepts,
            pool,
            latents,
            Budget(self.budgets.unet),
            self.work / "unet.pt",
            self._log("unet"),
            self.workers,
        )
        average.copy_to(model.unet)
        sharpen_decoder(
            autoencoder,
            pool,
            latents,
            Budget(self.budgets.decoder),
            self.work / "decoder.pt",
            self._log("decoder"),
            self.workers,
        )
        write_folder(model, autoencoder, tokenizer, folder)
        self.console.print(f"wrote {folder}")

    def _autoencoder(self, pool: Compositions) -> AutoencoderKL:
        folder = self.work / "autoencoder"
        if not folder.exists():
            budget, checkpoint = Budget(self.budgets.autoencoder), self.work / "autoencoder.pt"
            trained = train_autoencoder(
                pool, budget, checkpoint, self._log("autoencoder"), self.workers
            )
            trained.save_pretrained(folder)
        return AutoencoderKL.from_pretrained(folder)

    def _latents(self, autoencoder: AutoencoderKL, pool: Compositions) -> Tensor:
        path = self.work / "latents.pt"
        if not path.exists():
            torch.save(encode_pool(autoencoder, pool, self.workers), path)
        return torch.load(path, weights_only=True)

    def _named(self, concepts: list[Concept]) -> tuple[CLIPTokenizer, TextToImage]:
        """Returns the tokenizer and a model whose text encoder knows the names already."""
        folder = self.work / "text"
        torch.manual_seed(_TEXT_SEED)
        if not folder.exists():
            tokenizer = learn_tokenizer(concepts)
            encoder = new_text_encoder(tokenizer)
            artwork = load_artwork(fetch(ARTWORK_PACKAGE, self.work), concepts)
            updates = self.budgets.text_updates
            teach_names(encoder, tokenizer, concepts, artwork, self._log("text"), updates)
            tokenizer.save_pretrained(folder)
            torch.save(encoder.state_dict(), folder / "encoder.pt")
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        encoder = new_text_encoder(tokenizer)
        encoder.load_state_dict(torch.load(folder / "encoder.pt", weights_only=True))
        torch.manual_seed(_UNET_SEED)
        return tokenizer, TextToImage(encoder, new_unet())

    def _log(self, stage: str) -> Callable[[Progress], None]:
        """Shows progress and keeps it, a JSON line each, for the loss curve."""
        path = self.work / f"{stage}.jsonl"

        def report(progress: Progress) -> None:
            line = {
                "update": progress.update,
                "loss": round(progress.loss, 5),
                "minutes": round(progress.minutes, 3),
            }
            with path.open("a") as log:
                log.write(json.dumps(line) + "\n")
            self.console.print(
                f"[dim]{progress.minutes:6.1f} min[/] {stage}: update {progress.update}, "
                f"loss {progress.loss:.4f}"
            )

        return report


def real_pictures(
    work: Path, count: int = 98_304, workers: int = 3
) -> tuple[Compositions, list[Concept]]:
    """Returns the compositions, drawn the first time, and the concepts that they show."""
    concepts = read_concepts(fetch(NAMES_PACKAGE, work))
    path = work / "compositions.npz"
    if not path.exists():
        artwork = load_artwork(fetch(ARTWORK_PACKAGE, work), concepts)
        names = [concept.name for concept in concepts]
        save_pool(draw_pool(artwork, names, count, _POOL_SEED, workers), path)
    pool = load_pool(path)
    if int(np.max(pool.concepts)) + 1 != len(concepts):
        raise ValueError(f"{path} was drawn for another list of concepts: delete it to draw anew")
    return pool, concepts


def prompts_of(concepts: list[Concept], rounds: int) -> list[str]:
    """Returns prompts for every concept in each round, none on a colour that is held out."""
    rng = Random(_PROMPT_SEED)
    asked: list[str] = []
    for _ in range(rounds):
        for concept in rng.sample(concepts, len(concepts)):
            seen = [colour for colour in COLOURS if not is_held_out(concept.name, colour.name)]
            asked.append(ask(concept, rng.choice(seen), rng))
    return asked
