"""Pictures in the precisions of a GPU's engines: the graph draws, and it draws nearly the same."""

from pathlib import Path

import numpy as np
import pytest
from other_weights import add_adapter, write_manifest
from random_models import make_random_model

from sangsang.services.diffusion.evaluation import sampling, simulated
from sangsang.services.diffusion.evaluation.configurations import (
    Configuration,
    in_precisions,
    read_configurations,
)
from sangsang.services.diffusion.evaluation.sampling import Batch, Painting
from sangsang.services.runtime.errors import ModelNotReady
from sangsang.services.runtime.models.folder import ModelFolder
from sangsang.services.runtime.models.manifest import Manifest

POCKET = Path(__file__).parents[3] / "deploy" / "models" / "pocket"


@pytest.fixture(scope="module")
def exact():
    """The Free tier: three steps of an adapter."""
    manifest = Manifest.read(ModelFolder.open(POCKET))
    return next(one for one in read_configurations(manifest) if one.name == "free")


def test_each_tier_is_drawn_in_each_precision(exact):
    manifest = Manifest.read(ModelFolder.open(POCKET))
    found = in_precisions(manifest, ("f16", "int8"))
    assert [one.name for one in found] == ["pro, f16", "free, f16", "pro, int8", "free, int8"]
    assert str(found[1]) == "3 steps, unguided, f16"
    assert (found[3].weights, found[3].step_count) == (exact.weights, exact.step_count)


@pytest.mark.filterwarnings("ignore")
def test_f16_draws_nearly_the_same_picture(exact, tmp_path, monkeypatch):
    painting = Painting(POCKET, tmp_path / "samples", 1)
    half = next(
        one
        for one in in_precisions(Manifest.read(ModelFolder.open(POCKET)), ("f16",))
        if one.name == "free, f16"
    )
    painting.check([exact, half])
    painting.prepare([exact.precision, half.precision], lambda *_: None)
    batches = [Batch(one, ("a cat", "a rocket"), (1, 2)) for one in (exact, half)]
    first, second = painting.draw(batches, lambda _: None)
    apart = np.abs(first.pixels.astype(int) - second.pixels)
    # Another picture is 30 and more away on average; the same bits would not be f16.
    assert 0 < apart.mean() < 1
    assert second.unet_rows == 2 * 3
    # Kept: neither the graph is made again nor the picture drawn.
    monkeypatch.setattr(simulated, "convert", None)
    monkeypatch.setattr(sampling.Painter, "draw", None)
    again = Painting(POCKET, tmp_path / "samples", 1)
    again.prepare([half.precision], lambda *_: None)
    [kept] = again.draw(batches[1:], lambda _: None)
    assert (kept.pixels == second.pixels).all()


def test_every_precision_gets_its_graph(tmp_path, monkeypatch):
    made = []

    def simulate(folder, precision, work):
        made.append(precision)
        return work / precision

    monkeypatch.setattr(sampling, "simulated_unet", simulate)
    told = []
    wanted = ("f32", "int8", "f16", "int8", "fp8")
    Painting(POCKET, tmp_path, 1).prepare((one for one in wanted), lambda *step: told.append(step))
    assert made == ["f16", "int8", "fp8"]
    assert told == [(0, 3), (1, 3), (2, 3), (1, 1)]


def test_a_further_unet_is_refused(tmp_path):
    path = make_random_model(tmp_path / "tiny")
    add_adapter(path)
    (path / "full").mkdir()
    (path / "full" / "config.json").write_bytes((path / "unet" / "config.json").read_bytes())
    for file in (path / "unet").glob("*.safetensors"):
        (path / "full" / file.name).write_bytes(file.read_bytes())
    write_manifest(path, weights={"full": {"unet": "full"}})
    painting = Painting(path, tmp_path / "samples", 1)
    with pytest.raises(ModelNotReady, match="'full' is another"):
        painting.check([Configuration("odd", 2, 1.0, weights="full", precision="f16")])


def test_a_model_that_is_not_built_says_how_to_build_it(tmp_path, monkeypatch):
    path = make_random_model(tmp_path / "tiny")
    monkeypatch.setattr(
        "sangsang.services.runtime.engines.loading.DEFAULT_CACHE_PATH", tmp_path / "none"
    )
    painting = Painting(path, tmp_path / "samples", 1)
    with pytest.raises(ModelNotReady, match="run `sangsang build"):
        painting.prepare(["f16"], lambda *_: None)
