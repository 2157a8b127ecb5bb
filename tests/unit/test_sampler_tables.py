"""Sampler tables against the diffusers schedulers that they were compiled from."""

import math
from functools import cache

import diffusers
import numpy as np
import pytest
import torch

from sangsang.services.runtime.building.probing import NotAffine
from sangsang.services.runtime.building.sampler_compiler import SamplerCompiler
from sangsang.services.runtime.building.schedules import (
    RECIPES,
    SamplerRecipe,
    compile_samplers,
    make_scheduler,
    own_scheduler,
    with_own_sampler,
)
from sangsang.services.runtime.errors import ModelNotReady
from sangsang.services.runtime.models.sampler_tables import SamplerTables
from sangsang.services.runtime.noise import TorchGenerator

# diffusers' own: numpy's copy keyword, divisions where there is no signal.
pytestmark = [pytest.mark.filterwarnings("ignore")]

MAX_STEP_COUNT = 35
SHAPE = (1, 4, 6, 6)
_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
CONFIGS = {
    # Stable Diffusion 1.5's own.
    "epsilon": {
        "_class_name": "PNDMScheduler",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        **_BETAS,
    },
    # Zero terminal SNR: an Euler sigma of 4096, no signal at all in the first step.
    "v_zero_snr": {
        "_class_name": "DDIMScheduler",
        "clip_sample": False,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "skip_prk_steps": True,
        "timestep_spacing": "trailing",
        **_BETAS,
    },
}
NAMES = sorted(RECIPES)
# These compute in f32 whatever they are given; the others follow their tables in f64.
CAST_TO_F32 = {name for name in NAMES if name.startswith(("dpmpp", "euler"))}


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    before = diffusers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity_error()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    diffusers.utils.logging.set_verbosity(before)


def scheduler_of(config, name):
    return make_scheduler(own_scheduler(CONFIGS[config]), name, RECIPES[name])


@cache
def compiled(config, name):
    return SamplerCompiler(name, scheduler_of(config, name), MAX_STEP_COUNT).run()


def table_of(config, name, step_count, start_step=None):
    return compiled(config, name).packed.select(name, step_count, start_step)


def model(latents, timestep):
    """Bounded, nonlinear, different at each timestep; in numpy, so both sides share it."""
    return np.tanh(2 * latents + 0.3) * math.cos(0.01 * timestep)


def run_scheduler(scheduler, step_count, start_step, dtype, seed=3):
    """diffusers' pipelines: text to image, or image to image from a late start."""
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn(SHAPE, generator=generator, dtype=dtype)
    scheduler.set_timesteps(step_count)
    timesteps = scheduler.timesteps
    if start_step is None:
        latents = noise * scheduler.init_noise_sigma
    else:
        first = start_step * scheduler.order
        timesteps = timesteps[first:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        latents = scheduler.add_noise(picture(dtype), noise, timesteps[:1])
    options = {"generator": generator} if "generator" in step_parameters(scheduler) else {}
    for timestep in timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        output = torch.from_numpy(
            model(scaled.numpy(), float(timestep)).astype(scaled.numpy().dtype)
        )
        latents = scheduler.step(output, timestep, latents, **options).prev_sample
    return latents.numpy()


def step_parameters(scheduler):
    return scheduler.step.__code__.co_varnames[: scheduler.step.__code__.co_argcount]


def picture(dtype):
    return torch.linspace(-1, 1, math.prod(SHAPE), dtype=dtype).reshape(SHAPE)


def run_table(table, dtype, draw):
    """The formula of the tables, in numpy."""
    kind = np.dtype(dtype)
    rows, history = table.rows.astype(kind), table.history
    noise = draw()
    start = kind.type(table.start_noise) * noise
    if table.start_signal:
        start = kind.type(table.start_signal) * picture(torch.float64).numpy().astype(kind) + start
    latents, outputs = [start], []
    for row, draws in zip(rows, table.draws_noise, strict=True):
        outputs.insert(0, model(latents[0] * row[1], float(row[0])).astype(kind))
        result = row[2] * draw() if draws else 0
        for age, (old, output) in enumerate(zip(latents[:history], outputs, strict=False)):
            result = result + row[6 + age] * old + row[6 + history + age] * output
        latents.insert(0, result)
    return latents[0]


def torch_draws(seed, name):
    """f64 noise from torch, as the scheduler draws it; the SDE one always draws f32."""
    generator = torch.Generator("cpu").manual_seed(seed)
    dtypes = iter([torch.float64])
    rest = torch.float32 if name == "dpmpp_2m_sde" else torch.float64
    return lambda: torch.randn(SHAPE, generator=generator, dtype=next(dtypes, rest)).numpy()


def starts_of(step_count):
    """Text to image, and image to image from every start of a short run, from some of a long."""
    if step_count <= 5:
        return [None, *range(step_count)]
    return [None, 0, 1, step_count // 2, step_count - 2, step_count - 1]


@pytest.mark.parametrize("step_count", [1, 2, 3, 5, 20, 35])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("config", CONFIGS)
def test_f64_follows_the_scheduler(config, name, step_count):
    tolerance = 3e-5 if name in CAST_TO_F32 else 1e-11
    for start_step in starts_of(step_count):
        table = table_of(config, name, step_count, start_step)
        ours = run_table(table, "f8", torch_draws(3, name))
        theirs = run_with_karras_index(config, name, step_count, start_step, torch.float64)
        assert np.abs(ours - theirs).max() <= tolerance * max(1, np.abs(theirs).max()), start_step


def run_with_karras_index(config, name, step_count, start_step, dtype):
    """diffusers runs off the end where the first two timesteps are equal, unless told the index."""
    try:
        return run_scheduler(scheduler_of(config, name), step_count, start_step, dtype)
    except IndexError:
        assert (config, name, start_step) == ("v_zero_snr", "dpmpp_2m_karras", None)
        scheduler = scheduler_of(config, name)
        set_timesteps = scheduler.set_timesteps

        def told(count):
            set_timesteps(count)
            scheduler.set_begin_index(0)

        scheduler.set_timesteps = told
        return run_scheduler(scheduler, step_count, start_step, dtype)


@pytest.mark.parametrize("start_step", [None, 13])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("config", CONFIGS)
def test_f32_with_our_noise_follows_the_scheduler(config, name, start_step):
    """As served: coefficients and arithmetic in f32, noise drawn without torch."""
    generator = TorchGenerator(3)
    table = table_of(config, name, 35, start_step)
    ours = run_table(table, "f4", lambda: generator.randn(SHAPE))
    theirs = run_with_karras_index(config, name, 35, start_step, torch.float32)
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() <= 2e-4 * max(1, np.abs(theirs).max())


@pytest.mark.parametrize("config", CONFIGS)
def test_compiling_checks_to_the_last_digits(config):
    for name in NAMES:
        result = compiled(config, name)
        assert result.f64_error < 1e-11
        assert result.f32_error < 1e-5


def test_histories_are_short():
    histories = {name: table_of("epsilon", name, 20).history for name in NAMES}
    ones = ("ddim", "ddpm", "euler", "euler_ancestral", "lcm")
    twos = ("deis", "dpmpp_2m", "dpmpp_2m_karras", "dpmpp_2m_sde", "heun")
    assert histories == {
        **dict.fromkeys(ones, 1),
        **dict.fromkeys(twos, 2),
        "dpmpp_3m": 3,
        "unipc": 3,
        "pndm": 4,
    }


def test_when_noise_is_drawn():
    def drawn(config, name, step_count):
        return table_of(config, name, step_count).draws_noise.tolist()

    # Drawn in the last step too, though sigma_up is 0 there.
    assert drawn("epsilon", "euler_ancestral", 3) == [True, True, True]
    assert table_of("epsilon", "euler_ancestral", 3).noise_scales[-1] == 0
    assert drawn("epsilon", "lcm", 3) == [True, True, False]
    # Not at timestep 0; with an offset of 1 no timestep is 0.
    assert drawn("epsilon", "ddpm", 3) == [True, True, True]
    assert not any(drawn("epsilon", "ddim", 3))


def test_zero_snr_survives_f32(tmp_path):
    table = saved_and_loaded(tmp_path, compile_samplers(CONFIGS["v_zero_snr"], max_step_count=4))
    start = table.select("euler", 4)
    assert start.start_noise == pytest.approx(4096, rel=1e-3)
    assert start.rows.dtype == np.float32
    assert np.isfinite(start.rows).all()
    assert start.input_scales[0] == pytest.approx(1 / 4096, rel=1e-3)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler", "euler_ancestral", "heun"])
@pytest.mark.parametrize("config", CONFIGS)
def test_previews_predict_the_clean_latents(config, name):
    scheduler = scheduler_of(config, name)
    scheduler.set_timesteps(8)
    table = table_of(config, name, 8)
    random = np.random.default_rng(0)
    for row, timestep in enumerate(scheduler.timesteps):
        size = 1 / table.input_scales[row]
        latents = torch.from_numpy(random.standard_normal(SHAPE) * size)
        output = torch.from_numpy(random.standard_normal(SHAPE))
        scheduler.scale_model_input(latents, timestep)
        predicted = scheduler.step(output, timestep, latents).pred_original_sample.numpy()
        c_x, c_m = table.preview_coefficients[row]
        error = np.abs(c_x * latents.numpy() + c_m * output.numpy() - predicted).max()
        assert error <= 0.02 * max(1, np.abs(predicted).max())


def tables_of(report):
    packed = {name: result.packed for name, result in report.samplers.items()}
    return SamplerTables(report.default, 4, packed, report.refused)


def saved_and_loaded(folder, report):
    tables_of(report).save(folder / "schedules.npz")
    return SamplerTables.load(folder / "schedules.npz")


def test_files_hold_everything(tmp_path):
    report = compile_samplers(CONFIGS["epsilon"], max_step_count=4)
    loaded = saved_and_loaded(tmp_path, report)
    assert loaded.default == "pndm"
    assert loaded.names[0] == "pndm"
    assert set(loaded.names) == set(NAMES)
    for name in NAMES:
        for start_step in (None, 0, 1, 3):
            stored = loaded.select(name, 4, start_step)
            made = report.samplers[name].packed.select(name, 4, start_step)
            np.testing.assert_array_equal(stored.rows, made.rows.astype(np.float32))
            assert stored.start_noise == np.float32(made.start_noise)
            assert stored.start_signal == np.float32(made.start_signal)
    first = (tmp_path / "schedules.npz").read_bytes()
    saved_and_loaded(tmp_path, compile_samplers(CONFIGS["epsilon"], max_step_count=4))
    assert (tmp_path / "schedules.npz").read_bytes() == first


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 but not a zip"])
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "schedules.npz"
    path.write_bytes(content)
    with pytest.raises(ModelNotReady, match="build again"):
        SamplerTables.load(path)
    with pytest.raises(ModelNotReady, match="build again"):
        SamplerTables.load(tmp_path / "absent.npz")


def test_violations_name_the_field_and_what_is_allowed():
    tables = tables_of(compile_samplers(CONFIGS["epsilon"], max_step_count=4))
    assert tables.violations("ddim", 4) == []
    for step_count in (0, -1, 5, 10**6):
        (violation,) = tables.violations("ddim", step_count)
        assert violation.field == "step_count"
        assert "1 to 4" in violation.description
    unknown, steps = tables.violations("nope", 0)
    assert (unknown.field, steps.field) == ("scheduler", "step_count")
    assert "pndm, ddim" in unknown.description


def test_a_scheduler_whose_package_is_missing_is_refused_by_name(monkeypatch):
    def missing(*args, **kwargs):
        raise ImportError("no scipy")

    monkeypatch.setattr(diffusers.HeunDiscreteScheduler, "from_config", missing)
    tables = tables_of(compile_samplers(CONFIGS["epsilon"], max_step_count=4))
    assert "heun" not in tables.names
    (refused,) = tables.violations("heun", 4)
    assert "not installed" in refused.description


def test_lcm_is_limited_to_the_steps_it_was_trained_on():
    packed = SamplerCompiler("lcm", scheduler_of("epsilon", "lcm"), 55).run().packed
    tables = SamplerTables("lcm", 55, {"lcm": packed})
    assert tables.violations("lcm", 50) == []
    (violation,) = tables.violations("lcm", 51)
    assert "1 to 50" in violation.description
    assert "trained on 50 steps" in violation.description


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("ddim", {"clip_sample": True}, "clips"),
        ("ddpm", {"clip_sample": True}, "clips"),
        ("lcm", {"clip_sample": True}, "clips"),
        ("dpmpp_2m", {"thresholding": True}, "thresholding"),
        ("unipc", {"thresholding": True}, "thresholding"),
    ],
)
def test_what_is_not_affine_is_refused_by_name(name, changes, why):
    scheduler = type(scheduler_of("epsilon", name)).from_config(
        {**CONFIGS["epsilon"], **changes}, **RECIPES[name].overrides
    )
    with pytest.raises(NotAffine, match=why) as refused:
        SamplerCompiler(name, scheduler, 6).run()
    assert refused.value.name == name


def test_refusals_do_not_stop_the_others():
    report = compile_samplers({**CONFIGS["epsilon"], "clip_sample": True}, max_step_count=3)
    assert {"ddim", "ddpm", "lcm"} <= set(report.refused)
    assert {"euler", "dpmpp_2m", "pndm"} <= set(report.samplers)


@pytest.mark.parametrize(
    ("class_name", "options", "expected"),
    [
        ("DDIMScheduler", {}, "ddim"),
        ("PNDMScheduler", {}, "pndm"),
        ("DPMSolverMultistepScheduler", {}, "dpmpp_2m"),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, "dpmpp_2m_karras"),
        ("DPMSolverMultistepScheduler", {"solver_order": 3}, "dpmpp_3m"),
        ("KDPM2DiscreteScheduler", {}, "kdpm2_discrete"),
        ("DPMSolverSinglestepScheduler", {}, "dpm_solver_singlestep"),
    ],
)
def test_the_models_own_scheduler_is_always_known(class_name, options, expected):
    own = own_scheduler({"_class_name": class_name, **_BETAS, **options})
    default, recipes = with_own_sampler(own)
    assert default == expected
    assert recipes[default].class_name == class_name
    assert set(RECIPES) <= set(recipes)


def test_own_schedulers_without_a_recipe_are_compiled_too():
    config = {"_class_name": "KDPM2DiscreteScheduler", **_BETAS}
    scheduler = make_scheduler(
        own_scheduler(config), "kdpm2_discrete", SamplerRecipe("KDPM2DiscreteScheduler")
    )
    result = SamplerCompiler("kdpm2_discrete", scheduler, 6).run()
    assert result.packed.allows(6)


def test_unknown_scheduler_classes_are_named():
    with pytest.raises(ModelNotReady, match="NoSuchScheduler"):
        own_scheduler({"_class_name": "NoSuchScheduler"})
