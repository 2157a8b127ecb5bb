"""What is measured without a server: bare engines, the largest offline batch, and diffusers.

Started by `LineProcess` with a way, a number of workers for each device and a number of devices.
All of a plan's requests are there from the start; the workers, a process each with one thread, take
the next one whenever they have room. `bare` and `diffusers` make one picture after the other,
`batch` keeps eight rows full.
"""

import json
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .engines import EngineChoice, PeerModel
from .lines import READY, to_line
from .load import Ask
from .outcomes import Ending, Outcome

ROW_LIMIT = 8
_SPAWN = multiprocessing.get_context("spawn")

# Takes the requests that a worker gets, one by one; yields each with its picture.
Maker = Callable[[Iterator[Ask]], Iterator[tuple[Ask, bytes]]]


def one_by_one(model: PeerModel, asks: Iterator[Ask]) -> Iterator[tuple[Ask, bytes]]:
    """Yields pictures made one after the other."""
    for ask in asks:
        rows = model.start(model.contexts(ask.prompt, ask.tier), ask.seed, ask.tier)
        while not rows.finished:
            model.step([rows])
        yield ask, model.decode([rows.latents])[0]


def in_batches(model: PeerModel, asks: Iterator[Ask]) -> Iterator[tuple[Ask, bytes]]:
    """Yields pictures of which as many are under way as eight rows hold."""
    going: list[tuple[Ask, Any]] = []
    held = next(asks, None)
    while going or held:
        while held and sum(r.row_count for _, r in going) + model.tier(held.tier).row_count <= (
            ROW_LIMIT
        ):
            contexts = model.contexts(held.prompt, held.tier)
            going.append((held, model.start(contexts, held.seed, held.tier)))
            held = next(asks, None)
        model.step([rows for _, rows in going])
        finished = [(ask, rows.latents) for ask, rows in going if rows.finished]
        going = [(ask, rows) for ask, rows in going if not rows.finished]
        if finished:
            pictures = model.decode([latents for _, latents in finished])
            yield from zip((ask for ask, _ in finished), pictures, strict=True)


def engine_maker(way: Callable[..., Iterator[tuple[Ask, bytes]]], device: int) -> Maker:
    """Returns a maker on our engines, warm."""
    model = PeerModel(EngineChoice.from_environment(), device)
    model.warm_up("unet", "vae_decoder")
    return lambda asks: way(model, asks)


def diffusers_maker() -> Maker:
    """Returns diffusers' own pipelines in a loop, f32 on one thread, the student's LoRA fused."""
    import io

    import torch
    from diffusers import StableDiffusionPipeline

    from sangsang.services.runtime.models.folder import ModelFolder
    from sangsang.services.runtime.models.manifest import Manifest

    torch.set_num_threads(1)
    folder = ModelFolder.open(Path(EngineChoice.from_environment().model))
    manifest = Manifest.read(folder)
    pipelines = {}
    for name, tier in manifest.tiers.items():
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder.path, dtype=torch.float32, safety_checker=None
        )
        if tier.weights in manifest.adapters:
            pipeline.load_lora_weights(folder.path / manifest.adapters[tier.weights])
            pipeline.fuse_lora()
        pipeline.set_progress_bar_config(disable=True)
        pipelines[name] = pipeline

    def make(asks: Iterator[Ask]) -> Iterator[tuple[Ask, bytes]]:
        for ask in asks:
            tier = manifest.tiers[ask.tier]
            image = pipelines[ask.tier](
                ask.prompt,
                num_inference_steps=tier.step_count,
                guidance_scale=tier.guidance_scale,
                generator=torch.Generator("cpu").manual_seed(ask.seed),
            ).images[0]
            file = io.BytesIO()
            image.save(file, "PNG", compress_level=1)
            yield ask, file.getvalue()

    return make


WAYS: dict[str, Callable[[int], Maker]] = {
    "bare": lambda device: engine_maker(one_by_one, device),
    "batch": lambda device: engine_maker(in_batches, device),
    "diffusers": lambda _: diffusers_maker(),
}


def work(way: str, device: int, taken: Any, pipe: Connection) -> None:
    """One worker: makes what it can take, and tells when each picture was finished."""
    warnings.simplefilter("ignore")  # diffusers does what its own next release deprecates
    make = WAYS[way](device)
    pipe.send(None)
    while (plan := pipe.recv()) is not None:
        asks, began_s, keep = plan
        places: dict[Ask, int] = {}
        done = []
        # Patience is a caller's: nobody waits here.
        for ask, picture in make(_take(asks, taken, places)):
            seconds = time.monotonic() - began_s
            outcome = Outcome(ask.tier, Ending.FINISHED, 0.0, seconds, None, picture * keep)
            done.append((places[ask], outcome))
        pipe.send(done)


def _take(asks: Sequence[Ask], taken: Any, places: dict[Ask, int]) -> Iterator[Ask]:
    while True:
        with taken.get_lock():
            place = taken.value
            taken.value += 1
        if place >= len(asks):
            return
        places[asks[place]] = place
        yield asks[place]


def main(way: str, workers_per_device: int, device_count: int) -> None:
    """Carries out the plans of stdin until it ends."""
    taken = _SPAWN.Value("i", 0)
    pipes = []
    for number in range(device_count * workers_per_device):
        mine, theirs = _SPAWN.Pipe()
        device = number % device_count
        _SPAWN.Process(target=work, args=(way, device, taken, theirs), daemon=True).start()
        pipes.append(mine)
    for pipe in pipes:
        pipe.recv()
    print(READY, flush=True)
    for line in sys.stdin:
        plan = json.loads(line)
        asks = [Ask(**fields) for fields in plan["asks"]]
        taken.value = 0
        began_s = time.monotonic()
        for pipe in pipes:
            pipe.send((asks, began_s, plan.get("keep", False)))
        done = sorted((one for pipe in pipes for one in pipe.recv()), key=lambda pair: pair[0])
        print(to_line([outcome for _, outcome in done]), flush=True)
    for pipe in pipes:
        pipe.send(None)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
