"""`sangsang evaluate` from end to end, on a random model and a few squares."""

import json

import pytest
from named_pictures import write_named_pictures
from other_weights import add_adapter, write_manifest
from PIL import Image
from random_models import make_random_model
from typer.testing import CliRunner

from sangsang.services.diffusion.evaluation import sampling
from sangsang.services.diffusion.evaluation.__main__ import app
from sangsang.services.diffusion.evaluation.configurations import Configuration
from sangsang.services.diffusion.evaluation.sampling import Batch, Painting
from sangsang.services.runtime.building.schedules import named_scheduler, own_scheduler
from sangsang.services.runtime.errors import ModelNotReady
from sangsang.services.runtime.models.folder import ModelFolder

pytestmark = pytest.mark.filterwarnings("ignore")

TIERS = {
    "free": {"step_count": 2, "guidance_scale": 1.0, "weights": "student"},
    "pro": {"step_count": 4, "guidance_scale": 3.0, "scheduler": "ddim"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_random_model(tmp_path_factory.mktemp("models") / "tiny")
    add_adapter(folder)
    write_manifest(folder, tiers=TIERS, weights={"student": {"adapter": "adapters/student"}})
    return folder


@pytest.fixture(scope="module")
def evaluate(model, tmp_path_factory):
    place = tmp_path_factory.mktemp("evaluation")
    write_named_pictures(place / "pictures")

    def evaluate(output, *more):
        paths = {"--pictures": "pictures", "--output": output, "--work": "work"}
        options = [word for name, path in paths.items() for word in (name, str(place / path))]
        quick = ["--workers", "1", "--variety-prompts", "2", "--variety-seeds", "2"]
        side = ["--judge-side", "16"]
        words = [str(model), *options, *quick, *side, *more]
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return place / output

    return evaluate


@pytest.fixture(scope="module")
def first(evaluate):
    return evaluate("first", "--config", "extra=3,1.0,euler")


@pytest.fixture(scope="module")
def report(first):
    return json.loads((first / "evaluation.json").read_text("utf-8"))


def test_a_row_for_each_tier_the_control_and_what_was_added(report):
    names = [row["configuration"]["name"] for row in report["configurations"]]
    assert names == ["pro", "pro at 2", "free", "extra"]


def test_unet_evaluations_are_counted(report):
    counts = [row["unet_evaluations"] for row in report["configurations"]]
    assert counts == [8, 4, 2, 3]
    ratios = [row["against_reference"]["unet_evaluations"] for row in report["configurations"]]
    assert ratios == [1, 0.5, 0.25, 0.375]


def test_the_judge_knows_real_pictures_and_no_noise(report):
    assert report["real"]["top1"]["value"] > 0.7
    assert report["real"]["frechet"] < report["configurations"][0]["frechet"]


def test_groups_are_scored_apart(report):
    assert report["questions"] == 8
    assert set(report["configurations"][0]["groups"]) == {"bare", "grounded"}
    grounded = report["configurations"][0]["groups"]["grounded"]
    assert grounded["questions"] == 4
    assert grounded["background"] is not None


def test_no_path_is_written(first, model):
    for name in ("evaluation.json", "evaluation.md"):
        text = (first / name).read_text("utf-8")
        assert str(model.parent) not in text


def test_the_figure_has_a_column_for_each_row_of_the_table(first):
    with Image.open(first / "evaluation.png") as figure:
        assert figure.width > 4 * 128
    header = (first / "evaluation.md").read_text("utf-8")
    assert "| free: 2 steps, unguided |" in header


def test_a_rerun_draws_nothing_and_says_the_same(evaluate, first, monkeypatch):
    def refuse(self, batch):
        raise AssertionError("drawn again")

    monkeypatch.setattr(sampling.Painter, "draw", refuse)
    again = evaluate("again", "--config", "extra=3,1.0,euler")
    assert (again / "evaluation.json").read_bytes() == (first / "evaluation.json").read_bytes()
    assert (again / "evaluation.png").read_bytes() == (first / "evaluation.png").read_bytes()


def test_processes_draw_what_one_draws(model, tmp_path):
    batches = [
        Batch(Configuration("pro", 2, 1.0), ("cat", "red dog"), (seed, 9)) for seed in (1, 2)
    ]
    alone = Painting(model, tmp_path / "alone", 1).draw(batches, lambda batch: None)
    told = []
    together = Painting(model, tmp_path / "together", 2).draw(batches, told.append)
    assert sorted(batch.seeds for batch in told) == [(1, 9), (2, 9)]
    for one, other in zip(alone, together, strict=True):
        assert (one.pixels == other.pixels).all()
    assert (alone[0].pixels[1] == alone[1].pixels[1]).all()
    assert (alone[0].pixels[0] != alone[1].pixels[0]).any()


def test_a_bad_scheduler_is_found_before_anything_is_drawn(model, tmp_path):
    painting = Painting(model, tmp_path, 1)
    with pytest.raises(ModelNotReady, match="no scheduler 'eular'; known are"):
        painting.check([Configuration("odd", 2, 1.0, "eular")])


def test_no_name_is_the_folders_own_scheduler(model):
    own = own_scheduler(ModelFolder.open(model).scheduler_config)
    assert type(named_scheduler(own, None)) is type(own)


def test_a_quick_look_is_measured_against_the_names_it_asks_for(evaluate):
    output = evaluate("quick", "--questions", "2")
    report = json.loads((output / "evaluation.json").read_text("utf-8"))
    assert report["questions"] == 4
    assert report["real"]["reference_count"] == 2
