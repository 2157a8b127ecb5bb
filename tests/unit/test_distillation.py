"""`sangsang distill` on a tiny folder: what it writes, what it refuses, and a kill half-way."""

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image
from random_models import make_random_model
from safetensors.torch import load_file

from sangsang.services.diffusion.distillation.display import Display
from sangsang.services.diffusion.distillation.distiller import (
    Distillation,
    DistillationPlan,
    Students,
    check,
)
from sangsang.services.diffusion.distillation.failures import CannotDistil
from sangsang.services.diffusion.distillation.low_rank import add_adapter, factor, matrices
from sangsang.services.diffusion.distillation.trainer import TrainingSettings

# diffusers' schedulers do what newer numpys deprecate.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

_MODULE = "sangsang.services.diffusion.distillation"
_TRAILING = {"timestep_spacing": "trailing"}
_QUICK = (
    *("--schedule", "4,2", "--latents", "20", "--batch-size", "4", "--rank", "2"),
    *("--mixed-precision", "no", "--workers", "1"),
)
_SHORT_S, _LONG_S = 60, 120


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    # Several threads for matrices this small only wait for each other.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n\na red cat\n")
    return make_random_model(tmp_path / "model", scheduler=_TRAILING)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait(timeout=_SHORT_S)


def _plan(model: Path, **changes: Any) -> DistillationPlan:
    training = TrainingSettings(changes.pop("update_count", 10), 4, 3e-4)
    plan = DistillationPlan(
        model=model,
        step_counts=(4, 2),
        method="progressive",
        guidance_scale=3.0,
        name="student",
        rank=2,
        keeps_full=False,
        tier=None,
        pictures=None,
        prompts=("a cat", "a dog", "a red cat"),
        latent_count=20,
        training=training,
        mixed_precision="no",
        work=model.parent / "work",
    )
    return replace(plan, **changes)


def _distill(plan: DistillationPlan) -> Students:
    check(plan)
    return Distillation(plan, Display(quiet=True)).run()


def _command(model: Path, work: str, *options: str) -> list[str]:
    prompts = str(model.parent / "prompts.txt")
    return [
        *(sys.executable, "-m", _MODULE, str(model), "--prompts", prompts),
        *("--work", str(model.parent / work), *_QUICK, *options),
    ]


def _run(model: Path, work: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(model, work, *options),
        capture_output=True,
        text=True,
        timeout=_LONG_S,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def _log(work: Path) -> list[dict[str, str]]:
    with (work / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_student_comes_out_that_diffusers_loads(model: Path) -> None:
    students = _distill(_plan(model, keeps_full=True, tier="free"))
    assert students.adapter == model / "adapters" / "student"
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    teacher = _sample(pipeline)
    pipeline.load_lora_weights(students.adapter)
    adapted = [name for name, layer in pipeline.unet.named_modules() if hasattr(layer, "lora_A")]
    assert len(adapted) == len(matrices(UNet2DConditionModel.from_pretrained(model / "unet")))
    assert (_sample(pipeline) != teacher).any()
    full = UNet2DConditionModel.from_pretrained(model, subfolder="student_unet")
    assert full.config.block_out_channels == pipeline.unet.config.block_out_channels
    manifest = json.loads((model / "sangsang.json").read_text())
    assert manifest["weights"] == {
        "student": {"adapter": "adapters/student"},
        "student-full": {"unet": "student_unet"},
    }
    assert manifest["tiers"]["free"]["weights"] == "student"
    assert manifest["tiers"]["free"]["step_count"] == 2
    work = model.parent / "work"
    assert {"log.csv", "loss.png", "samples-4-to-2.png"} <= {path.name for path in work.iterdir()}
    assert [line["stage"] for line in _log(work)] == [
        *("4-guided", "4-to-2", "4-to-2", "2-low-rank"),
    ]


def _sample(pipeline: StableDiffusionPipeline) -> NDArray[np.float32]:
    seed = torch.Generator().manual_seed(0)
    return pipeline("a cat", num_inference_steps=2, output_type="np", generator=seed).images


def test_a_killed_run_goes_on_to_the_same_student(
    model: Path, started: list[subprocess.Popen[str]]
) -> None:
    options = ("--updates", "60", "--checkpoint-interval", "0.2")
    assert _run(model, "unbroken", *options).returncode == 0
    wanted = load_file(model / "adapters" / "student" / "pytorch_lora_weights.safetensors")
    process = subprocess.Popen(
        _command(model, "killed", *options),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    started.append(process)
    log = model.parent / "killed" / "log.csv"
    _wait_until(lambda: log.exists() and "2-low-rank,30," in log.read_text())
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=_SHORT_S)
    assert (model.parent / "killed" / "2-low-rank" / "checkpoint.pt").exists()
    again = _run(model, "killed", *options)
    assert again.returncode == 0, again.stderr
    assert "4-paths-2: done before" in again.stderr
    found = load_file(model / "adapters" / "student" / "pytorch_lora_weights.safetensors")
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0.02, atol=2e-3)
    lines = [line for line in _log(model.parent / "killed") if line["stage"] == "2-low-rank"]
    assert [int(line["update"]) for line in lines] == list(range(10, 61, 10))


def _wait_until(happened: Callable[[], bool]) -> None:
    for _ in range(_SHORT_S * 10):
        if happened():
            return
        time.sleep(0.1)
    pytest.fail("the run did not get so far in time")


def test_processes_share_the_work(model: Path) -> None:
    done = _run(model, "work", "--updates", "10", "--rank", "0", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert (model / "student_unet").is_dir()
    assert not (model / "adapters").exists()
    assert len(list((model.parent / "work" / "paths").iterdir())) == 2


def _write_pictures(folder: Path) -> Path:
    folder.mkdir()
    lines: list[str] = []
    for index in range(3):
        Image.new("RGB", (40, 30), (80 * index, 0, 0)).save(folder / f"{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", "text": f"red {index}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def test_pictures_are_learnt_from_where_there_are_some(model: Path) -> None:
    pictures = _write_pictures(model.parent / "pictures")
    _distill(_plan(model, pictures=pictures, prompts=(), update_count=2))
    latents = load_file(model.parent / "work" / "latents.safetensors")["latents"]
    assert latents.shape[:2] == (3, 4)


def test_paths_are_solved_for_what_pictures_show(model: Path) -> None:
    pictures = _write_pictures(model.parent / "pictures")
    changes = {"pictures": pictures, "prompts": (), "method": "paths", "update_count": 1}
    assert _distill(_plan(model, **changes)).adapter is not None
    assert (model.parent / "work" / "paths" / "00001.safetensors").is_file()


def test_paths_are_one_stage_and_its_low_rank(model: Path) -> None:
    _distill(_plan(model, method="paths", tier="free"))
    work = model.parent / "work"
    assert list(dict.fromkeys(line["stage"] for line in _log(work))) == ["4-paths-2", "2-low-rank"]
    assert len(list((work / "paths").iterdir())) == 2
    manifest = json.loads((model / "sangsang.json").read_text())
    assert manifest["tiers"]["free"]["scheduler"] == "ddim"


def test_consistency_is_one_stage_and_its_low_rank(model: Path) -> None:
    _distill(_plan(model, method="consistency", tier="free"))
    stages = dict.fromkeys(line["stage"] for line in _log(model.parent / "work"))
    assert list(stages) == ["4-consistency-2", "2-low-rank"]
    manifest = json.loads((model / "sangsang.json").read_text())
    assert manifest["tiers"]["free"]["scheduler"] == "lcm"


def test_a_folder_of_half_precision_alone_is_distilled(tmp_path: Path) -> None:
    model = make_random_model(tmp_path / "model", half=True, scheduler=_TRAILING)
    students = _distill(_plan(model, update_count=1))
    assert students.adapter is not None
    assert (students.adapter / "pytorch_lora_weights.safetensors").is_file()


def test_a_model_that_would_not_start_from_noise_is_refused(tmp_path: Path) -> None:
    model = make_random_model(tmp_path / "model")
    with pytest.raises(CannotDistil, match='"timestep_spacing": "trailing"'):
        _distill(_plan(model))


def test_other_options_in_the_same_work_folder_are_refused(model: Path) -> None:
    _distill(_plan(model, update_count=1))
    with pytest.raises(CannotDistil, match=r"other options \(training\)"):
        _distill(_plan(model, update_count=2))


def test_two_runs_in_one_folder_are_refused(model: Path) -> None:
    plan = _plan(model)
    check(plan)
    with (plan.work / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CannotDistil, match="another distillation"):
            _distill(plan)


def test_nothing_to_learn_on_is_refused(model: Path) -> None:
    command = [sys.executable, "-m", _MODULE, str(model)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SHORT_S, check=False)
    assert done.returncode == 2
    assert "--prompts FILE or --pictures FOLDER" in " ".join(done.stderr.split())


def test_a_delta_of_full_rank_is_the_student(model: Path) -> None:
    teacher = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    student = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    with torch.no_grad():
        for layer in matrices(student).values():
            layer.weight.add_(torch.randn_like(layer.weight) * 0.02)
    inputs = (torch.randn(2, 4, 8, 8), torch.tensor([10, 900]), torch.randn(2, 16, 24))
    wanted = student(*inputs).sample
    add_adapter(teacher, 10_000)
    assert factor(teacher, student) == pytest.approx(1.0)
    torch.testing.assert_close(teacher(*inputs).sample, wanted, rtol=1e-3, atol=1e-4)


def test_a_lower_rank_holds_less_of_the_difference(model: Path) -> None:
    student = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    with torch.no_grad():
        for layer in matrices(student).values():
            layer.weight.add_(torch.randn_like(layer.weight) * 0.02)
    held = []
    for rank in (1, 4, 16):
        teacher = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
        add_adapter(teacher, rank)
        held.append(factor(teacher, student))
    assert held == sorted(held)
    assert 0 < held[0] < held[-1] < 1
