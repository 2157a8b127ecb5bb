"""Scenarios that are drawn again and again: the talk's picture, and its eight servers."""

from dataclasses import replace
from pathlib import Path

from ...services.runtime.errors import ModelNotReady
from ...services.runtime.models.profile import StepProfile
from .devices import PairSharing
from .generated import Mix, closed_loop
from .mesh import RowRules
from .model_times import Call, ModelTimes, make_profile, read_times
from .simulation import Scenario
from .workload import Request, Workload

PROFILES = Path(__file__).resolve().parents[2] / "deploy" / "profiles"
_A100 = PROFILES / "sd15-a100.json"

# The talk gives no times. Light models take one unit each, a step of the diffusion model two.
TALK_UNIT_S = 0.1
TALK_STEP_UNITS = 2
TALK_STEP_COUNT = 3
TALK_REQUESTS = 2
# For each device.
REQUESTS = 200
# Callers for each device: two batches of each tier, as many as its diffusion lane has room for.
EIGHT_CALLERS = 32


def a100_times() -> ModelTimes:
    """Returns the times of Stable Diffusion 1.5 on an A100, as published.

    Raises:
        ModelNotReady: the repository's profiles are not here.
    """
    if not _A100.is_file():
        raise ModelNotReady(
            "the shipped profiles are not beside this installation; name one with --profile"
        )
    return read_times(_A100)


def talk_times() -> ModelTimes:
    """Returns the talk's pipeline: models 1, 2, 1', diffusion, 3, 4, 5.

    A light model leaves the device half idle, so beside the diffusion model both run at full
    speed. Two diffusion models fill it twice, so each takes twice as long.
    """
    unit_s = TALK_UNIT_S
    side_px, step_s = 512, TALK_STEP_UNITS * unit_s
    steps = StepProfile(height_px=side_px, width_px=side_px, seconds={1: step_s})
    return ModelTimes(
        name="the talk's pipeline",
        profile=make_profile(
            steps,
            {"text_encoding": unit_s, "preprocessing": unit_s, "postprocessing": unit_s},
            machine="the talk's GPU",
        ),
        before=(
            Call("text_encoding", unit_s, "1", "1"),
            Call("preprocessing", unit_s, "2", "2"),
            Call("text_encoding", unit_s, "1", "1'"),
        ),
        after=tuple(Call("postprocessing", unit_s, name, name) for name in ("3", "4", "5")),
        sharing=PairSharing({("diffusion", "diffusion"): 2.0}),
    )


def talk(request_count: int = TALK_REQUESTS) -> tuple[Scenario, ...]:
    """Returns the talk's picture on one GPU: one lane, whole requests in two, and pipelined.

    Requests come at once, one row each. Steps are not shared, as in the talk.
    """
    requests = tuple(
        Request(f"request {number}", 0.0, step_count=TALK_STEP_COUNT)
        for number in range(1, request_count + 1)
    )
    rules = RowRules(row_limit=1)
    pipelined = Scenario("two lanes, pipelined", talk_times(), Workload(requests), rules=rules)
    return (
        replace(pipelined, name="one lane", lane_count=1),
        replace(pipelined, name="two lanes, whole requests", policy="whole-requests"),
        pipelined,
    )


def eight(request_count: int = REQUESTS, *, seed: int = 0) -> tuple[Scenario, ...]:
    """Returns the talk's eight servers: two lanes each, Free and Pro, always something to do.

    Args:
        request_count: for each device.
        seed: of the mix.
    """
    devices = 8
    workload = closed_loop(
        Mix(), concurrency=devices * EIGHT_CALLERS, request_count=devices * request_count, seed=seed
    )
    times = a100_times()
    # For the most pictures: steps as full as they may be, however little the last rows gain.
    rules = RowRules(min_gain=0.0)
    return (Scenario("eight servers", times, workload, devices, rules=rules),)
