"""What the mesh costs over its bare engines, for one request at a time.

The same picture is made two ways in turn, so that both meet the same machine: through five
processes over gRPC, and by the same engines called in a plain loop in this process, without gRPC,
queues or traces. Prints both medians and their ratio.

Run: make bench-mesh
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sangsang.imaging.v1 import image_generation_service_pb2 as imaging
from sangsang.imaging.v1 import image_generation_service_pb2_grpc as imaging_grpc
from sangsang.orchestrator.local_mesh import LocalMesh
from sangsang.services.runtime.engines.loading import load_engine
from sangsang.services.runtime.models.folder import ModelFolder
from sangsang.services.runtime.models.sampling import load_tables
from sangsang.services.runtime.noise import TorchGenerator
from sangsang.services.text_encoding.tokenizer import ClipTokenizer

PROMPT = "a rocket on a yellow background"
CASES = (
    ("3 steps, no guidance", 3, 1.0),
    ("12 steps, guided", 12, 4.0),
    ("35 steps, guided", 35, 5.0),
)


class BareEngines:
    """The engines of one model in a plain loop."""

    def __init__(self, folder: ModelFolder, cache_dir: Path) -> None:
        self.folder = folder
        self.text, self.unet, self.decoder = (
            load_engine(folder, module, cache=cache_dir)
            for module in ("text_encoder", "unet", "vae_decoder")
        )
        self.tables = load_tables(folder, cache_dir)
        self.tokenizer = ClipTokenizer.from_folder(folder.path / "tokenizer", folder.token_limit)

    def picture(self, seed: int, step_count: int, guidance: float) -> bytes:
        folder = self.folder
        texts = [PROMPT, ""] if guidance > 1 else [PROMPT]
        ids = np.array([self.tokenizer.tokenize(text).ids for text in texts], np.int64)
        context = self.text.infer({"input_ids": ids})["last_hidden_state"]
        side = folder.default_height_px // folder.vae_scale
        table = self.tables.select("ddim", step_count)
        noise = TorchGenerator(seed).randn((1, folder.latent_channels, side, side))
        latents = noise * np.float32(table.start_noise)
        for i in range(table.row_count):
            rows = np.repeat(latents * table.input_scales[i], len(texts), axis=0)
            timestep = np.full(len(texts), table.timesteps[i], np.float32)
            inputs = {"sample": rows, "timestep": timestep, "encoder_hidden_states": context}
            output = self.unet.infer(inputs)["out_sample"]
            guided = output[:1]
            if len(texts) == 2:
                guided = output[1:] + np.float32(guidance) * (output[:1] - output[1:])
            a, b = table.latent_coefficients[i, 0], table.output_coefficients[i, 0]
            latents = a * latents + b * guided
        unscaled = (latents / folder.scaling_factor).astype(np.float32)
        image = self.decoder.infer({"latents": unscaled})["image"][0]
        pixels = ((image / 2 + 0.5).clip(0, 1) * 255).round().astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "PNG", compress_level=1)
        return file.getvalue()


def pixels_of(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def timed(function: Callable[[], object]) -> float:
    started_at = time.perf_counter()
    function()
    return time.perf_counter() - started_at


def measure(
    stub: imaging_grpc.ImageGenerationServiceStub,
    bare: BareEngines,
    repeats: int,
    step_count: int,
    guidance: float,
) -> tuple[list[float], list[float]]:
    mesh_times, bare_times = [], []
    for seed in track(range(repeats + 2), description=f"{step_count} steps", transient=True):
        spec = imaging.ImageSpec(
            model_id=bare.folder.model_id,
            prompt=PROMPT,
            seed=seed,
            step_count=step_count,
            guidance_scale=guidance,
            scheduler="ddim",
            embed_parameters=False,
        )
        request = imaging.GenerateImagesRequest(spec=spec)
        if seed == 0:
            # A comparison of speeds is worth nothing unless both make the same picture.
            found = pixels_of(stub.GenerateImages(request, timeout=60).images[0].data.content)
            expected = pixels_of(bare.picture(seed, step_count, guidance))
            assert np.abs(found - expected).max() <= 1
        mesh_times.append(timed(lambda r=request: stub.GenerateImages(r, timeout=60)))
        bare_times.append(timed(lambda s=seed: bare.picture(s, step_count, guidance)))
    # The first two warm both sides up.
    return mesh_times[2:], bare_times[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="model folder, built")
    parser.add_argument("--cache-dir", type=Path, default=Path.home() / ".cache" / "sangsang")
    parser.add_argument("--repeats", type=int, default=20, help="pictures of each kind")
    arguments = parser.parse_args()
    bare = BareEngines(ModelFolder.open(arguments.model), arguments.cache_dir)
    table = Table(
        "one picture", "mesh, median", "bare engines, median", "mesh / bare", "difference"
    )
    quiet = {"SANGSANG_LOG_LEVEL": "error"}
    with (
        LocalMesh([arguments.model], cache_dir=arguments.cache_dir, environment=quiet) as mesh,
        grpc.insecure_channel(mesh.address) as channel,
    ):
        stub = imaging_grpc.ImageGenerationServiceStub(channel)
        for name, step_count, guidance in CASES:
            times = measure(stub, bare, arguments.repeats, step_count, guidance)
            through, alone = (statistics.median(one) * 1000 for one in times)
            table.add_row(
                name,
                f"{through:.1f} ms",
                f"{alone:.1f} ms",
                f"{through / alone:.3f}",
                f"{through - alone:.1f} ms",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
