"""`sangsang profile` on a real model: measured, written, and read by the service."""

import shutil
import subprocess
import sys
from pathlib import Path

from sangsang.services.diffusion.jobs import BatchKey
from sangsang.services.runtime.models.folder import ModelFolder
from sangsang.services.runtime.models.profile import ModelProfile

TOOL = [sys.executable, "-m", "sangsang.services.diffusion.profiling"]
QUICK = ["--rows", "3", "--rounds", "1", "--seconds", "0.05", "--size", "32x16"]


def run(model: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*TOOL, str(model), *options], capture_output=True, text=True, timeout=240
    )


async def test_a_profile_is_measured_written_and_used(model, cache_dir, tmp_path, serve):
    copy = shutil.copytree(model, tmp_path / model.name)
    picture = tmp_path / "profile.png"
    done = run(copy, *QUICK, "--cache-dir", str(cache_dir), "--output", str(picture))
    assert done.returncode == 0, done.stderr
    assert "A step of the UNet, 32x16" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    profile = ModelProfile.read(ModelFolder.open(copy), backend="onnxruntime")
    assert profile is not None
    assert [(step.height_px, step.width_px) for step in profile.steps][1:] == [(16, 32)]
    assert all(sorted(step.seconds) == [1, 2, 3] for step in profile.steps)
    assert set(profile.stages) == {"text_encoding", "preprocessing", "diffusion", "postprocessing"}
    assert len(profile.pairs) == 6
    assert not list(copy.glob(".profile*"))
    async with serve(models=(copy,)) as served:
        costs = served.loop()._stepper._scheduler.costs
        own = profile.steps[0]
        scale = ModelFolder.open(copy).vae_scale
        key = BatchKey(own.height_px // scale, own.width_px // scale, "float32", 16)
        assert costs.step_cost(key, 2) == own.seconds[2]
        assert costs.row_limit(key) == own.row_limit(0.1)


def test_what_the_caller_can_mend_is_said_in_a_sentence(model, cache_dir, tmp_path):
    for options, said in (
        (["--size", "7x9"], "7x9 is not WIDTHxHEIGHT in multiples of"),
        (["--core", "4096"], "core 4096 is not one of"),
        (["--backend", "abacus"], "no backend 'abacus'"),
    ):
        done = run(model, *QUICK, "--cache-dir", str(cache_dir), *options)
        assert done.returncode == 1
        assert said in " ".join(done.stderr.split())
    assert not list(model.glob("*profile*"))
