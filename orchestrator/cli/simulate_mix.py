"""The words of `sangsang simulate` about a workload, and the workload that they mean."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ...services.runtime.errors import FieldViolation, InvalidRequest
from ..simulation.bounds import alone_s, device_s
from ..simulation.generated import DEFAULT_MIX, Burst, Mix, TierMix, closed_loop, open_loop
from ..simulation.simulation import Scenario
from ..simulation.workload import Request, Workload
from ..simulation.workload_file import parse_size

MOST_DEVICES = 10_000
# Eight times the arrivals for five seconds, twice a minute.
BURST = Burst(factor=8.0, length_s=5.0, period_s=30.0)
CANCEL_WITHIN_S = 1.0


@dataclass(frozen=True, slots=True)
class MixRules:
    """Who asks for what; see `simulate_options.py`."""

    tiers: Mapping[str, TierMix]
    sizes: Mapping[tuple[int, int], float]
    deadline: float | None
    cancelled: float
    tenants: int


@dataclass(frozen=True, slots=True)
class WorkloadRules:
    """What a workload is drawn from; see `simulate_options.py`.

    Attributes:
        given: requests from a file, if there is one; then nothing is drawn.
    """

    given: Workload | None
    arrivals: Literal["closed", "poisson", "bursts"]
    requests: int
    callers: int
    load: float
    seed: int
    mix: MixRules


def make_workload(scenario: Scenario, rules: WorkloadRules) -> Workload:
    """Returns the requests for a mesh, whose size and times decide how many and how often."""
    if rules.given is not None:
        return rules.given
    said = rules.mix
    tiers = {
        name: replace(kind, deadline_s=_deadline_s(scenario, kind, said.deadline))
        for name, kind in said.tiers.items()
    }
    mix = Mix(tiers, said.sizes, said.tenants, said.cancelled, CANCEL_WITHIN_S)
    count = rules.requests * scenario.device_count
    if rules.arrivals == "closed":
        callers = rules.callers * scenario.device_count
        return closed_loop(mix, concurrency=callers, request_count=count, seed=rules.seed)
    return open_loop(
        mix,
        rate_per_s=rules.load * capacity_per_s(scenario, mix),
        request_count=count,
        seed=rules.seed,
        burst=BURST if rules.arrivals == "bursts" else None,
    )


def capacity_per_s(scenario: Scenario, mix: Mix) -> float:
    """Returns the requests of a mix that a mesh could do in a second at the very best."""
    sizes: Mapping[tuple[int, int] | None, float] = {**mix.sizes} or {None: 1.0}
    shares = sum(kind.share for kind in mix.tiers.values()) * sum(sizes.values())
    seconds = sum(
        kind.share * share * device_s(scenario, _request(kind, size))
        for kind in mix.tiers.values()
        for size, share in sizes.items()
    )
    return scenario.device_count * shares / seconds


def _deadline_s(scenario: Scenario, kind: TierMix, factor: float | None) -> float | None:
    return None if factor is None else factor * alone_s(scenario, _request(kind, None))


def _request(kind: TierMix, size: tuple[int, int] | None) -> Request:
    return Request("", 0.0, step_count=kind.step_count, row_count=kind.row_count, size_px=size)


def check_policy(policy: str, lane_count: int) -> None:
    """Returns if a policy can give so many lanes.

    Raises:
        InvalidRequest: it cannot.
    """
    if policy == "whole-requests" and lane_count < 1:
        raise _bad("--lanes", "must be 1 or more with --policy whole-requests", f"{lane_count}")


def parse_devices(text: str) -> list[int]:
    """Returns the numbers of devices of `--devices`.

    Raises:
        InvalidRequest: it has none, or one out of range.
    """
    words = [word.strip() for word in text.split(",")]
    good = [word.isascii() and word.isdigit() for word in words]
    if not all(good) or not all(1 <= int(word) <= MOST_DEVICES for word in words):
        raise _bad("--devices", f"must be numbers from 1 to {MOST_DEVICES}, as 1,8,64", text)
    return [int(word) for word in words]


def parse_tiers(words: Sequence[str]) -> Mapping[str, TierMix]:
    """Returns the tiers of `--tier`; the default mix if there is none.

    Raises:
        InvalidRequest: one is malformed.
    """
    tiers: dict[str, TierMix] = {}
    for word in words:
        found = re.fullmatch(r"(\w{1,64})=(\d+\.?\d*):(\d{1,4})x(\d{1,4})", word, re.ASCII)
        if found is None or not float(found[2]) or not int(found[3]) or not int(found[4]):
            raise _bad("--tier", "must be NAME=SHARE:STEPSxROWS, as pro=0.3:35x2", word)
        tiers[found[1]] = TierMix(float(found[2]), int(found[3]), int(found[4]))
    return tiers or DEFAULT_MIX


def parse_sizes(words: Sequence[str]) -> Mapping[tuple[int, int], float]:
    """Returns the sizes of `--size`.

    Raises:
        InvalidRequest: one is malformed.
    """
    sizes: dict[tuple[int, int], float] = {}
    for word in words:
        size, _, share = word.partition("=")
        try:
            sizes[parse_size(size)] = float(share)
        except ValueError:
            raise _bad("--size", "must be HEIGHTxWIDTH=SHARE, as 512x512=0.8", word) from None
        if not 0 < sizes[parse_size(size)] < 1e9:
            raise _bad("--size", "must have a share above 0", word)
    return sizes


def _bad(option: str, text: str, given: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(option, f"{text}; got {given[:80]!r}")])
