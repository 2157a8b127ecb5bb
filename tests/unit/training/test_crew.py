"""The machinery of training: the optimizer, the clock, and processes that share their weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sangsang.services.diffusion.training import stopwatch
from sangsang.services.diffusion.training.muon import Muon, orthogonalised
from sangsang.services.diffusion.training.stopwatch import Budget

TINY_CREW = Path(__file__).parents[2] / "support" / "tiny_crew.py"


@pytest.fixture(autouse=True)
def one_thread():
    """Many threads wait for each other on matrices as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Workers, and the updates that each run of theirs ends at.
CASES = {
    "one process": (1, [6]),
    "two processes": (2, [6]),
    "resumed once": (2, [3, 6]),
    "resumed twice": (2, [2, 4, 6]),
}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """Parameters and averages that each case ends with."""
    folder = tmp_path_factory.mktemp("checkpoints")
    command = [sys.executable, str(TINY_CREW), str(folder), json.dumps(list(CASES.values()))]
    done = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True)
    results = [torch.tensor(numbers) for numbers in json.loads(done.stdout)]
    assert {file.suffix for file in folder.iterdir()} == {".pt"}, "nothing half-written is left"
    return dict(zip(CASES, results, strict=True))


@pytest.mark.parametrize("case", list(CASES)[1:])
def test_a_crew_learns_what_one_process_does_in_one_run(learnt, case):
    torch.testing.assert_close(learnt[case], learnt["one process"])


@pytest.mark.parametrize("shape", [(40, 100), (100, 40)])
def test_a_step_turns_every_direction_by_about_as_much(shape):
    torch.manual_seed(0)
    singular = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
    assert singular.min() > 0.3
    assert singular.max() < 1.3


def test_a_direction_is_kept():
    left, _, right = torch.linalg.svd(torch.randn(30, 50), full_matrices=False)
    matrix = left @ torch.diag(torch.linspace(1, 3, 30)) @ right
    cosine = nn.functional.cosine_similarity(
        orthogonalised(matrix).flatten(), (left @ right).flatten(), dim=0
    )
    assert cosine > 0.95


def test_matrices_are_muons_and_the_rest_is_adams():
    model = nn.Sequential(nn.Conv2d(32, 32, 3), nn.GroupNorm(4, 32), nn.Conv2d(32, 4, 1))
    muon, adam = Muon([model]).param_groups
    assert [tuple(p.shape) for p in muon["params"]] == [(32, 32, 3, 3)]
    assert len(adam["params"]) == 5


def test_both_rules_go_downhill():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 2))
    rows = torch.randn(64, 32)
    optimizer = Muon([model])
    owned = {id(parameter) for parameter in model.parameters()}
    losses = []
    for _ in range(40):
        model.zero_grad()
        loss = (model(rows) - rows[:, :2]).square().mean()
        loss.backward()
        optimizer.step_only(owned)
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_only_what_is_owned_is_stepped():
    model = nn.Linear(32, 32)
    before = [parameter.clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    Muon([model]).step_only({id(model.bias)})
    assert torch.equal(model.weight, before[0])
    assert not torch.equal(model.bias, before[1])


def test_rates_are_shares_of_their_peaks():
    optimizer = Muon([nn.Linear(32, 32)], rate=0.02, adam_rate=0.001)
    optimizer.scale_rates(0.5)
    optimizer.scale_rates(0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.005, 0.00025]


@pytest.fixture
def clock(monkeypatch):
    """Time that a test moves: `clock.now += seconds`."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(stopwatch, "time", clock)
    return clock


def test_the_rate_warms_up_and_falls_to_nothing(clock):
    budget = Budget(minutes=10)
    assert budget.rate(0, warmup=100) == 0.01
    assert budget.rate(99, warmup=100) == 1.0
    clock.now += 300
    assert budget.rate(999, warmup=100) == pytest.approx(0.5)
    assert not budget.is_spent()
    clock.now += 400
    assert budget.rate(999, warmup=100) == 0.0
    assert budget.share_spent() == 1.0
    assert budget.is_spent()


def test_a_checkpoint_is_written_once_a_minute_and_resumed(clock, tmp_path):
    path, model, other = tmp_path / "state.pt", nn.Linear(2, 2), nn.Linear(2, 2)
    budget = Budget(minutes=10)
    budget.checkpoint(path, 1, model)
    assert not path.exists()
    clock.now += 90
    budget.checkpoint(path, 2, model)
    budget.checkpoint(path, 3, model)
    resumed = Budget(minutes=10)
    clock.now += 5
    assert resumed.resume(path, other) == 2
    assert resumed.spent_s() == pytest.approx(90)
    assert torch.equal(other.weight, model.weight)
    budget.checkpoint(path, 4, model, force=True)
    assert resumed.resume(path, other) == 4


def test_without_a_checkpoint_training_starts_afresh(tmp_path):
    assert Budget(minutes=1).resume(tmp_path / "state.pt", nn.Linear(2, 2)) == 0
