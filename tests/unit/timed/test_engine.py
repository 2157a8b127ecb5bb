"""Timed engines: the shapes of the real ones, rows that do not see each other, times by profile."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from random_adapters import make_random_adapter
from random_models import make_random_model

from sangsang.services.runtime.building.export import example_inputs
from sangsang.services.runtime.engines.loading import load_engine
from sangsang.services.runtime.engines.timed import TimedEngine, TimedProfile
from sangsang.services.runtime.engines.timed_device import SharingRates, device_path
from sangsang.services.runtime.engines.timing import Timing
from sangsang.services.runtime.engines.torch_eager import TorchEngine
from sangsang.services.runtime.errors import ModelNotReady, StageFailed
from sangsang.services.runtime.models.folder import ModelFolder

SHIPPED = sorted((Path(__file__).parents[3] / "deploy" / "profiles").glob("*.json"))
MODULES = ("text_encoder", "vae_encoder", "unet", "vae_decoder")
PROFILE = TimedProfile(
    "a device", "f16", {name: {1: 1.0, 2: 1.5, 8: 4.5} for name in MODULES}, SharingRates()
)


class Ledger:
    """A device that notes what it was held for."""

    def __init__(self):
        self.held = []

    def hold(self, seconds):
        self.held.append(seconds)

    def close(self):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = make_random_model(tmp_path_factory.mktemp("models") / "tiny", seed=4, variant="tiny")
    return ModelFolder.open(path)


@pytest.fixture
def ledger():
    return Ledger()


@pytest.mark.parametrize("module", MODULES)
def test_outputs_have_the_shapes_of_the_real_module(folder, ledger, module):
    engine, real = TimedEngine(folder, module, PROFILE, ledger), TorchEngine(folder, module)
    inputs = example_inputs(folder, module, 3, (2, 4))
    for name, expected in real.infer(inputs).items():
        found = engine.infer(inputs)[name]
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert np.isfinite(found).all()


@pytest.mark.parametrize("module", MODULES)
def test_a_row_is_the_same_alone_and_in_any_batch(folder, ledger, module):
    engine = TimedEngine(folder, module, PROFILE, ledger)
    inputs = example_inputs(folder, module, 8, (2, 2))
    (together,) = engine.infer(inputs).values()
    for row in range(8):
        (alone,) = engine.infer({n: a[row : row + 1] for n, a in inputs.items()}).values()
        assert np.array_equal(alone[0], together[row])
    assert len(np.unique(together.reshape(8, -1), axis=0)) == 8


@pytest.mark.parametrize("name", ["sample", "timestep", "encoder_hidden_states"])
def test_every_input_counts(folder, ledger, name):
    engine = TimedEngine(folder, "unet", PROFILE, ledger)
    inputs = example_inputs(folder, "unet", 1, (2, 2))
    changed = {**inputs, name: inputs[name] + 1}
    assert not np.array_equal(*(engine.infer(i)["out_sample"] for i in (inputs, changed)))


def test_the_last_token_tells_of_the_whole_text(folder, ledger):
    engine = TimedEngine(folder, "text_encoder", PROFILE, ledger)
    tokens = np.zeros((2, folder.token_limit), np.int64)
    tokens[1, 1] = 5
    one, other = engine.infer({"input_ids": tokens})["last_hidden_state"][:, -1]
    assert not np.array_equal(one, other)


def test_times_are_the_profiles_by_rows_and_size(folder, ledger):
    engine = TimedEngine(folder, "unet", PROFILE, ledger)
    scale = folder.vae_scale
    side = folder.default_width_px // folder.size_multiple_px
    for rows in (1, 2, 5, 16):
        engine.infer(example_inputs(folder, "unet", rows, (side, side)))
    engine.infer(example_inputs(folder, "unet", 1, (2 * side, side)))
    assert ledger.held == pytest.approx([1.0, 1.5, 3.0, 9.0, 2.0])
    decoder = TimedEngine(folder, "vae_decoder", PROFILE, ledger)
    sides = (folder.default_height_px // scale, folder.default_width_px // scale)
    decoder.infer({"latents": np.zeros((1, folder.latent_channels, *sides), np.float32)})
    assert ledger.held[-1] == pytest.approx(1.0)


def test_it_takes_the_scales_of_adapters(tmp_path):
    path = make_random_model(tmp_path / "adapted", seed=4, variant="tiny")
    make_random_adapter(path, path / "adapters" / "student", seed=1)
    manifest = {"weights": {"student": {"adapter": "adapters/student"}}}
    (path / "sangsang.json").write_text(json.dumps(manifest))
    (tmp_path / "p.json").write_text(_text(seconds={"unet": {"1": 1e-6}}))
    timing = Timing(tmp_path / "p.json", f"test-{os.getpid()}")
    device_path(timing.device).unlink(missing_ok=True)
    engine = load_engine(ModelFolder.open(path), "unet", backend="timed", timing=timing)
    assert engine.inputs[-1].name == "adapter_scale"
    inputs = example_inputs(ModelFolder.open(path), "unet", 1, (2, 2))
    scales = np.ones((1, 1), np.float32)
    plain, scaled = (
        engine.infer(i)["out_sample"] for i in (inputs, {**inputs, "adapter_scale": scales})
    )
    assert not np.array_equal(plain, scaled)
    engine.close()
    device_path(timing.device).unlink()
    with pytest.raises(StageFailed, match="closed"):
        engine.infer(inputs)


def _text(**fields):
    good = {"device": "d", "precision": "f16", "seconds": {"unet": {"1": 1}}, "rates": {"1": 1}}
    return json.dumps({**good, **fields})


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", _text(rates={}), _text(seconds={"unet": {"0": 1}}), _text(seconds=[1])],
)
def test_a_profile_that_says_nothing_sensible_is_refused(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ModelNotReady, match="profile"):
        TimedProfile.read(tmp_path / "p.json")


@pytest.mark.parametrize(
    ("timing", "said"),
    [
        (Timing(), "SANGSANG_TIMED_PROFILE"),
        (Timing(Path("p.json"), "../x"), "SANGSANG_TIMED_DEVICE"),
        (Timing(Path("absent.json"), "x"), "absent"),
    ],
)
def test_what_is_missing_is_said(folder, timing, said):
    with pytest.raises(ModelNotReady, match=said):
        load_engine(folder, "unet", backend="timed", timing=timing)


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_shipped_profiles_are_whole_and_more_rows_cost_more_but_less_each(path):
    profile = TimedProfile.read(path)
    for module in MODULES:
        times = [profile.seconds_of(module, rows) for rows in range(1, 33)]
        assert times == sorted(times)
    times = [profile.seconds_of("unet", rows) / rows for rows in (1, 2, 8)]
    assert times == sorted(times, reverse=True)
